"""The command ``fagan-hf``.

Flags are parsed before torch is imported, so a mistyped one is answered at once.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fagan_hf import __version__
from fagan_hf.seeds import parse_seeds

PICTURE_SUFFIXES = (".png", ".webp", ".jpg", ".jpeg")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Without the program's name; by default the process's own.

    Returns:
        Exit status: 0, or 2 where the cause of a failure is the user's to mend; it is printed in words.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"fagan-hf: error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fagan-hf", description="Attention GANs on the Hugging Face Hub.")
    parser.add_argument("--version", action="version", version=f"fagan-hf {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_generate(commands.add_parser("generate", help="make pictures with a trained model"))
    return parser


def _add_generate(parser: argparse.ArgumentParser) -> None:
    parser.description = "Make pictures. A seed is a picture: the same on every run, device and batch size."
    parser.add_argument("--model", required=True, help="run folder, or Hub id like user/name")
    parser.add_argument("--seeds", type=_seeds, default="0-15", help="like '0-15, 42' (default: 0-15)")
    parser.add_argument(
        "--out", type=Path, required=True, help=f"grid ({', '.join(PICTURE_SUFFIXES)}), or a folder of single pictures"
    )
    parser.add_argument("--truncation", type=float, default=1.0, help="below 1: less varied (default: 1)")
    parser.add_argument("--columns", type=int, help="pictures in a row of the grid (default: about a square)")
    parser.add_argument("--batch_size", type=int, default=64, help="pictures at a time (default: 64)")
    parser.add_argument("--device", help="like cpu, cuda, mps (default: the fastest there is)")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.set_defaults(run=_generate)


def _seeds(text: str) -> list[int]:
    try:
        return parse_seeds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _generate(options: argparse.Namespace) -> None:
    is_grid = options.out.suffix.lower() in PICTURE_SUFFIXES
    if not is_grid and options.out.suffix and not options.out.is_dir():
        raise ValueError(f"--out is {str(options.out)!r}; it must end in {', '.join(PICTURE_SUFFIXES)}, or be a folder")

    from fagan_hf.models import Generator
    from fagan_hf.sampling import latents_from_seeds

    generator = Generator.from_pretrained(options.model, revision=options.revision)
    generator.to(_device(options.device))
    latents = latents_from_seeds(options.seeds, generator.config.latent_dim, options.truncation)
    if is_grid:
        _write_grid(generator, latents, options)
    else:
        _write_folder(generator, latents, options)
    print(f"{len(latents)} pictures in {options.out}")


def _device(name: str | None):
    import torch

    if name is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # what torch raises for an unknown device, and for an absent one
        raise ValueError(f"--device is {name!r}, which can't be used here: {error}") from error


def _write_grid(generator, latents, options: argparse.Namespace) -> None:
    from fagan_hf.files import replacing
    from fagan_hf.grids import image_grid
    from fagan_hf.sampling import generate_images

    grid = image_grid(generate_images(generator, latents, batch_size=options.batch_size), options.columns)
    with replacing(options.out) as path:
        grid.save(path, format=options.out.suffix[1:].lower().replace("jpg", "jpeg"))


def _write_folder(generator, latents, options: argparse.Namespace) -> None:
    from PIL import Image

    from fagan_hf.files import replacing
    from fagan_hf.sampling import sample, to_uint8

    seeds = iter(options.seeds)
    for batch in sample(generator, latents, batch_size=options.batch_size):
        for pixels in to_uint8(batch):
            with replacing(options.out / f"seed-{next(seeds):08d}.png") as path:
                Image.fromarray(pixels).save(path, format="PNG")
