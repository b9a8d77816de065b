"""``fagan-hf inspect``: inspect a model's attention, as a table and as images."""

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fagan_hf.commands.options import (
    add_images,
    add_latents,
    add_model,
    drawing,
    image_source,
    load_discriminator,
    load_generator,
)
from fagan_hf.commands.switches import add_switch

if TYPE_CHECKING:
    from PIL import Image

    from fagan_hf.attention_maps.kernels import KernelReport
    from fagan_hf.attention_maps.report import LayerReport

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
RELATIVE_ALPHAS = (0.0, 0.5, 1.0, 1.5, 2.0)
PICTURES = 4


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.description = (
        "Print a table of a model's layers: their cost, attention's share of their output, and how far attention "
        "reaches. With --out, save attention maps."
    )
    add_model(parser, is_positional=True)
    add_latents(parser, default_seeds="0-15")
    add_switch(parser, "--kernels", "also print which kernel computes each layer's attention on this device")
    parser.add_argument("--out", type=Path, help="folder for attention maps and the table as layers.json")
    parser.add_argument(
        "--pixels",
        type=_pixels,
        metavar="'ROW,COLUMN ...'",
        help="query pixels of the attention maps, like '12,16 20,9' (default: five, spread over the image)",
    )
    parser.add_argument("--pictures", type=int, default=PICTURES, help=f"number of seeds shown (default: {PICTURES})")
    add_switch(parser, "--alpha-sweep", "generate the seeds with other gate values: alpha-sweep.png")
    parser.add_argument(
        "--alphas",
        type=_alphas,
        metavar="'NUMBER,...'",
        help="gate values of the sweep (default: 0,0.25,0.5,0.75,1; 0 to 2 if relative)",
    )
    add_switch(parser, "--relative", "multiply the trained gates by the sweep's values")
    parser.add_argument("--layer", action="append", help="restrict the sweep to a layer, like layers.2; repeatable")
    add_switch(
        parser,
        "--necessity",
        "also evaluate the generator with each of its gates at 0, and with all of them: how much the model relies on "
        "them; takes as long as that many evaluations",
    )
    parser.add_argument("--num-images", type=int, help="number of images for --necessity, see fagan-hf evaluate --help")
    add_images(parser)


def _pixels(text: str) -> list[tuple[int, int]]:
    parts = text.split()
    matches = [re.fullmatch(r"(\d+),(\d+)", part, flags=re.ASCII) for part in parts]
    if not parts or None in matches:
        raise argparse.ArgumentTypeError(f"pixels are {text!r}; write them as row,column, like '12,16 20,9'")
    return [(int(match[1]), int(match[2])) for match in matches if match]


def _alphas(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"alphas are {text!r}; write them like '0,0.5,1'") from error


def run(options: argparse.Namespace) -> None:
    """Print the table, and save the images."""
    _check_flags(options)

    import torch

    from fagan_hf.attention_maps.report import inspect_layers
    from fagan_hf.sampling.images import sample

    with drawing(load_generator(options), options) as (generator, latents, labels):
        _check_request(generator, options)
        discriminator = load_discriminator(options, "only the generator is inspected")
        if discriminator is not None:
            discriminator = discriminator.to(generator.dtype)
        with torch.inference_mode():
            images = torch.cat(list(sample(generator, latents, labels)))
            networks = {"generator": (generator, *_inputs(generator, latents, labels))}
            if discriminator is not None:
                networks["discriminator"] = (discriminator, *_inputs(discriminator, images, labels))
            reports = {name: inspect_layers(*network) for name, network in networks.items()}
            for name, layers in reports.items():
                parameters = sum(parameter.numel() for parameter in networks[name][0].parameters())
                flops = sum(layer.flops for layer in layers if not layer.is_part)
                print(f"{name}: {parameters:,} parameters, {flops / 1e6:,.2f} MFLOPs\n{_layer_table(layers)}\n")
                if options.kernels and (table := _kernel_table(name, layers)):
                    print(f"{table}\n")
            print(f"FLOPs are per image and forward pass, a multiply-add counts as 2; means over {len(latents)} seeds.")
            if options.out is not None:
                _write(options.out / "layers.json", lambda path: _write_json(path, reports))
                _write_gates(options)
                _write_pictures(networks, images, options)
            if options.alpha_sweep:
                _write_sweep(generator, latents, labels, options)
    if options.necessity:
        _print_necessity(options)


def _check_flags(options: argparse.Namespace) -> None:
    if options.out is None and (options.pixels or options.alpha_sweep):
        flag = "--pixels" if options.pixels else "--alpha-sweep"
        raise ValueError(f"{flag} saves images; choose a folder with --out")
    if options.num_images is not None and not options.necessity:
        raise ValueError("--num-images requires --necessity")
    for flag in ("alphas", "layer", "relative"):
        if getattr(options, flag) and not options.alpha_sweep:
            raise ValueError(f"--{flag} requires --alpha-sweep")
    if options.out is not None and options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out is {str(options.out)!r}, which is a file; it must be a folder")
    if options.pictures < 1:
        raise ValueError(f"--pictures is {options.pictures}; it must be a whole number of at least 1")


def _check_request(generator: Any, options: argparse.Namespace) -> None:
    """Refuse requests that this generator can't fulfill, before any work is done."""
    from fagan_hf.attention_maps.positions import check_positions
    from fagan_hf.layers import override_alpha

    size = generator.config.image_size
    check_positions(options.pixels or (), size, size)
    for alpha in (options.alphas or ALPHAS) if options.alpha_sweep else ():
        with override_alpha(generator, dict.fromkeys(options.layer, alpha) if options.layer else alpha):
            pass


def _inputs(network: Any, first: Any, labels: Any) -> tuple:
    return (first, labels) if network.config.label_names else (first,)


COLUMNS: dict[str, Callable[["LayerReport"], str]] = {
    "layer": lambda layer: layer.name,
    "type": lambda layer: layer.type,
    "size": lambda layer: f"{layer.height}x{layer.width}",
    "positions": lambda layer: _positions(layer),
    "parameters": lambda layer: f"{layer.parameters:,}",
    "MFLOPs": lambda layer: f"{layer.flops / 1e6:,.3f}",
    "gate": lambda layer: _or_dash(layer.gate, "+.3f"),
    "energy [%]": lambda layer: _or_dash(layer.attention_energy, ".1f", 100),
    "distance [px]": lambda layer: _or_dash(layer.distance, ".2f"),
    "if uniform": lambda layer: _or_dash(layer.uniform_distance, ".2f"),
    "entropy": lambda layer: _or_dash(layer.entropy, ".3f"),
}


KERNEL_COLUMNS: dict[str, Callable[["LayerReport", "KernelReport"], str]] = {
    "layer": lambda layer, kernel: layer.name,
    "kernel": lambda layer, kernel: kernel.kernel + (f" ({kernel.backend})" if kernel.backend else ""),
    "positions": lambda layer, kernel: _positions(layer),
    "heads": lambda layer, kernel: str(kernel.heads),
    "key size": lambda layer, kernel: _with_zeros(kernel.key_size, kernel.kernel_key_size),
    "value size": lambda layer, kernel: _with_zeros(kernel.value_size, kernel.kernel_value_size),
    "weights held": lambda layer, kernel: kernel.weights_held,
}


def _positions(layer: "LayerReport") -> str:
    """Format the queries and, if they differ, the keys that each attends to."""
    queries, keys = (_or_dash(count, ",") for count in (layer.positions, layer.key_positions))
    return queries if queries == keys else f"{queries} of {keys}"


def _or_dash(value: float | None, form: str, factor: float = 1) -> str:
    return "-" if value is None else format(factor * value, form)


def _with_zeros(size: int, in_kernel: int) -> str:
    return str(size) if size == in_kernel else f"{size} -> {in_kernel}"


def _layer_table(layers: Sequence["LayerReport"]) -> str:
    return _table(list(COLUMNS), [[cell(layer) for cell in COLUMNS.values()] for layer in layers])


def _kernel_table(name: str, layers: Sequence["LayerReport"]) -> str:
    """Format how the layers' attention is computed; empty if there are none with attention."""
    found = [(layer, layer.kernel) for layer in layers if layer.kernel is not None]
    if not found:
        return ""
    kernel = found[0][1]
    rows = [[cell(*each) for cell in KERNEL_COLUMNS.values()] for each in found]
    return f"{name}'s attention on {kernel.device} in {kernel.dtype}\n{_table(list(KERNEL_COLUMNS), rows)}"


def _table(headings: list[str], rows: Sequence[list[str]]) -> str:
    """Format a text table: the first two columns (names) left-aligned, numbers right-aligned."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = []
    for row in (headings, *rows):
        cells = [
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _write_json(path: Path, reports: Mapping[str, Sequence["LayerReport"]]) -> None:
    table = {name: [asdict(layer) for layer in layers] for name, layers in reports.items()}
    path.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


def _write(path: Path, save: Callable[[Path], object]) -> None:
    from fagan_hf.utils.files import replacing

    with replacing(path, make_folder=True) as aside:
        save(aside)
    print(f"wrote {path}")


def _write_png(path: Path, picture: "Image.Image") -> None:
    _write(path, lambda aside: picture.save(aside, format="PNG"))


def _write_gates(options: argparse.Namespace) -> None:
    """Plot the gates over training, if MODEL is a run folder."""
    from fagan_hf.viz.plots import plot_gates, read_metrics

    lines = read_metrics(Path(options.model) / "metrics.jsonl")
    if not lines:
        return
    try:
        _write(options.out / "alpha.png", lambda aside: plot_gates(aside, lines))
    except ImportError as error:  # everything else works without
        print(f"skipped {options.out / 'alpha.png'}: {error}")


def _write_pictures(networks: Mapping[str, tuple], images: Any, options: argparse.Namespace) -> None:
    """Draw attention maps, one image for each seed and pixel, with the networks side by side."""
    from fagan_hf.attention_maps.capture import capture_attention
    from fagan_hf.attention_maps.pictures import attention_picture
    from fagan_hf.layers import gates
    from fagan_hf.sampling.images import to_uint8

    networks = {name: network for name, network in networks.items() if gates(network[0])}
    if not networks:
        raise ValueError(f"{options.model} has no attention layers, so there are no attention maps to draw")
    pixels = options.pixels or _spread_pixels(images.shape[-1])
    for index, seed in enumerate(options.seeds[: options.pictures]):
        own = slice(index, index + 1)
        captured = {}
        for name, (network, *inputs) in networks.items():
            with capture_attention(network, pixels) as captured[name]:
                network(*(each[own].to(network.device, network.dtype) for each in inputs))
        for row, column in pixels:
            panels = [
                attention_picture(to_uint8(images[own]), layers, (row, column), title=f"{name}, seed {seed}")
                for name, layers in captured.items()
            ]
            _write_png(options.out / f"attention-{seed}-{row}-{column}.png", _side_by_side(panels))


def _spread_pixels(size: int) -> list[tuple[int, int]]:
    """Choose the center and the centers of the quadrants."""
    low, middle, high = size // 4, size // 2, size * 3 // 4
    return [(middle, middle), (low, low), (low, high), (high, low), (high, high)]


def _side_by_side(panels: Sequence["Image.Image"]) -> "Image.Image":
    from PIL import Image

    width, height = sum(panel.width for panel in panels), max(panel.height for panel in panels)
    picture = Image.new("RGB", (width, height), (255, 255, 255))
    left = 0
    for panel in panels:
        picture.paste(panel, (left, 0))
        left += panel.width
    return picture


def _write_sweep(generator: Any, latents: Any, labels: Any, options: argparse.Namespace) -> None:
    from fagan_hf.attention_maps.pictures import alpha_strip

    names = [f"seed {seed}" for seed in options.seeds]
    alphas = options.alphas or (RELATIVE_ALPHAS if options.relative else ALPHAS)
    strip = alpha_strip(
        generator, latents, labels, alphas, options.layer, is_relative=options.relative, row_names=names
    )
    _write_png(options.out / f"alpha-sweep{'-relative' if options.relative else ''}.png", strip)


def _print_necessity(options: argparse.Namespace) -> None:
    """Evaluate the generator with gates closed; with its own weights and gates, whatever the other flags say."""
    from fagan_hf.data.prepare import prepare_images
    from fagan_hf.metrics.ablation import ablate

    generator = load_generator(options)
    images = prepare_images(image_source(options, generator.config.image_size))
    print(f"\n{ablate(generator, images, num_images=options.num_images).table()}")
