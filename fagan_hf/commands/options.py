"""Flags shared by several commands, and their handling."""

import argparse
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fagan_hf.commands.switches import add_switch
from fagan_hf.sampling.seeds import parse_seeds
from fagan_hf.utils.devices import find_device

if TYPE_CHECKING:
    from fagan_hf.data.image_source import ImageSource

DTYPES = ("float32", "bfloat16")


def add_model(parser: argparse.ArgumentParser, *, is_positional: bool = False, has_device: bool = True) -> None:
    """Add the flags that select a model and its device."""
    name: dict = {"metavar": "MODEL"} if is_positional else {"required": True}
    parser.add_argument(
        "model" if is_positional else "--model", help="run folder, or Hub id like user/name or user/name@v1", **name
    )
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    add_imports(parser)
    if has_device:
        parser.add_argument("--device", help="like cpu, cuda, mps (default: the fastest available)")


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add ``--checkpoint``."""
    parser.add_argument(
        "--checkpoint",
        type=_checkpoint,
        metavar="IMAGES or best",
        help="of a run folder: the model after this many images, from its checkpoints and snapshots; best: the one "
        "that was best when the run was measured (default: the newest)",
    )


def _checkpoint(text: str) -> int | str:
    if text != "best" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"checkpoint is {text!r}; write a number of images, like 81920, or best")
    return text if text == "best" else int(text)


def add_imports(parser: argparse.ArgumentParser) -> None:
    """Add ``--import``."""
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="FILE or MODULE",
        help="your Python file or module that registers custom layers; may be repeated",
    )


def add_latents(parser: argparse.ArgumentParser, *, default_seeds: str) -> None:
    """Add the flags of image generation: seeds, truncation, labels, gates, dtype."""
    add_seeds(parser, default_seeds)
    parser.add_argument("--truncation", type=float, default=1.0, help="below 1: less varied (default: 1)")
    add_labels(parser)
    add_alpha(parser)
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="dtype of the computation (default: as saved, usually float32); bfloat16 is faster on GPUs and on CPUs "
        "with bfloat16 instructions, slower on others, and colors differ by a few of 256 levels",
    )


def add_alpha(parser: argparse.ArgumentParser) -> None:
    """Add ``--alpha``."""
    parser.add_argument(
        "--alpha",
        action="append",
        type=_alpha,
        metavar="NUMBER or LAYER=NUMBER",
        help="override the trained gates: 0 convolution only, 1 attention only; may be repeated",
    )


def add_batch_size(parser: argparse.ArgumentParser) -> None:
    """Add ``--batch-size``."""
    parser.add_argument(
        "--batch-size", type=int, help="images per batch; affects only memory and speed (default: as many as fit)"
    )


def add_seeds(parser: argparse.ArgumentParser, default: str) -> None:
    """Add ``--seeds``."""
    parser.add_argument("--seeds", type=seeds, default=default, help=f"like '0-15, 42' (default: {default})")


def add_labels(parser: argparse.ArgumentParser) -> None:
    """Add ``--label``."""
    parser.add_argument(
        "--label",
        action="append",
        type=_label,
        metavar="NAME=VALUE",
        help="label of a conditional model, like beard=1 or hair=red; may be repeated",
    )


def seeds(text: str) -> list[int]:
    """Parse seeds for argparse, which prints an `ArgumentTypeError` and exits."""
    try:
        return parse_seeds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _label(text: str) -> str:
    if "=" not in text:
        raise argparse.ArgumentTypeError(f"label is {text!r}; write it like beard=1 or hair=red")
    return text


def add_images(parser: argparse.ArgumentParser) -> None:
    """Add the flags that select real images."""
    data = parser.add_argument_group("real images", "by default the data in the recipe of the run folder")
    data.add_argument("--dataset", help="avatars, avatars:STYLE, a folder, or a Hub id")
    data.add_argument("--split", help="split of a Hub dataset; for avatars train or test")
    data.add_argument("--dataset-revision", help="branch, tag or commit of a Hub dataset")
    data.add_argument("--image-column", help="image column of a Hub dataset")
    data.add_argument("--label-columns", nargs="+", help="label columns that a conditional model was trained with")
    data.add_argument("--num-avatars", type=int, help="number of avatars in the train split (default: 8192)")
    data.add_argument("--crop", type=int, help="side of the center square that is kept [pixels]")
    add_switch(data, "--upscale", "enlarge smaller images", default=None)


def image_source(options: argparse.Namespace, resolution: int) -> "ImageSource":
    """Read the flags of the data; missing ones come from the recipe, if it has the same dataset."""
    from fagan_hf.data.image_source import ImageSource
    from fagan_hf.hub.repository import read_recipe

    recipe = read_recipe(Path(options.model))
    given: dict[str, Any] = {
        "dataset": options.dataset,
        "split": options.split,
        "revision": options.dataset_revision,
        "image_column": options.image_column,
        "label_columns": options.label_columns,
        "num_avatars": options.num_avatars,
        "crop": options.crop,
        "upscale": options.upscale,
    }
    wanted = {name: value for name, value in given.items() if value is not None}
    if options.dataset in (None, recipe.get("dataset")):
        known = {field.name for field in fields(ImageSource)}
        wanted = {name: value for name, value in recipe.items() if name in known and value is not None} | wanted
    if "dataset" not in wanted:
        raise ValueError(f"{options.model} has no recipe with a dataset; choose the images to compare with: --dataset")
    return ImageSource(resolution=resolution, **wanted)


def is_run_folder(folder: Path) -> bool:
    """Return whether a folder contains a model, and the facts for its card."""
    from fagan_hf.hub.repository import FACTS, weights_hash

    return (folder / FACTS).is_file() and weights_hash(folder) is not None


def chosen_labels(generator: Any, options: argparse.Namespace) -> dict[str, str]:
    """Parse ``--label``; the model's labels determine which part is the name and which the value."""
    from fagan_hf.sampling.labels import parse_label

    labels: dict[str, str] = {}
    for text in options.label or ():
        name, value = parse_label(generator.config.label_names, text)
        if name in labels:
            raise ValueError(f"--label gives {name} twice, {labels[name]!r} and {value!r}; give it once")
        labels[name] = value
    return labels


def _alpha(text: str) -> tuple[str | None, float]:
    layer, _, number = text.rpartition("=")
    try:
        return layer or None, float(number)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"alpha is {text!r}; write it like 0.5 or layers.2=0.5") from error


def load_generator(options: argparse.Namespace, checkpoint: int | str | None = None) -> Any:
    """Load the generator selected by the flags of `add_model`, onto their device; at a checkpoint, or the best."""
    from fagan_hf.architectures.own_code import import_code
    from fagan_hf.hub.checkpoints import best_model, not_measured
    from fagan_hf.models import Generator

    for name in options.imports:
        import_code(name)
    if isinstance(checkpoint, str):
        run = Path(options.model).expanduser()
        model, images = best_model(run)
        print(f"best: {model if images is None else f'{images:,} images'}")
        if newer := not_measured(run):
            print(f"not measured: {', '.join(f'{each:,}' for each in newer)} images; see fagan-hf evaluate {run} --all")
    else:
        model, images = options.model, checkpoint
    generator = Generator.from_pretrained(model, revision=options.revision, checkpoint=images)
    return generator.to(find_device(options.device))


def load_discriminator(options: argparse.Namespace, otherwise: str) -> Any:
    """Load the discriminator of the model; if there is none, print what is done instead, and return ``None``."""
    from fagan_hf.models import Discriminator

    try:
        discriminator = Discriminator.from_pretrained(options.model, revision=options.revision)
    except FileNotFoundError:
        print(f"{options.model} has no discriminator: {otherwise}")
        return None
    return discriminator.to(find_device(options.device))


@contextmanager
def drawing(generator: Any, options: argparse.Namespace) -> Iterator[tuple[Any, Any, Any]]:
    """Prepare what the flags of `add_latents` ask for.

    Yields:
        The generator in its fastest form, recalibrated for truncated latents, with its gates overridden inside this
        context; the latents; the labels, or ``None``.
    """
    import torch

    from fagan_hf.sampling.images import labels_from_seeds, latents_from_seeds
    from fagan_hf.sampling.standing_statistics import recalibrated

    latents = latents_from_seeds(options.seeds, generator.config.latent_dim, options.truncation)
    labels = labels_from_seeds(generator, options.seeds, chosen_labels(generator, options))
    # In this order: `FAGANPipeline` recalibrates in channels_last too, so its images are identical, and weights are
    # divided by their norms before they are rounded. Gates last, because an override applies to one network object.
    generator = recalibrated(generator.to(memory_format=torch.channels_last), options.truncation).fold()
    if options.dtype:
        generator = generator.to(getattr(torch, options.dtype))
    with turned_gates(generator, options):
        yield generator, latents, labels


def turned_gates(generator: Any, options: argparse.Namespace) -> AbstractContextManager[None]:
    """Override the gates as given by ``--alpha``."""
    from fagan_hf.layers import gates, override_alpha

    alpha: dict[str, float] = {}
    for layer, number in options.alpha or ():
        for name in gates(generator) if layer is None else [layer]:
            alpha[name] = number
    return override_alpha(generator, alpha) if alpha else nullcontext()
