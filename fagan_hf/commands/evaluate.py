"""``fagan-hf evaluate``: numbers that say how good a model is, and the real pictures nearest to its own."""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fagan_hf.commands.options import PICTURE_SUFFIXES, add_batch_size, add_model, load_generator

if TYPE_CHECKING:
    from fagan_hf.image_sources import ImageSource
    from fagan_hf.metrics.evaluate import Evaluation


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.description = (
        "Compare a model's pictures with real ones: Fréchet and kernel distance, precision and recall, density and "
        "coverage, and the real pictures that are nearest to generated ones. A run folder keeps the numbers: in "
        "metrics.json, nearest.png and its card."
    )
    add_model(parser, is_positional=True)
    data = parser.add_argument_group("real pictures", "by default the data that a run folder's recipe names")
    data.add_argument("--dataset", help="avatars, avatars:STYLE, a folder, or a Hub id")
    data.add_argument("--split", help="of a Hub data set; of avatars train or test")
    data.add_argument("--dataset-revision", help="branch, tag or commit of a Hub data set")
    data.add_argument("--image-column", help="of a Hub data set")
    data.add_argument("--label-columns", nargs="+", help="what a conditional model was trained with")
    data.add_argument("--crop", type=int, help="side of the centre square that is kept [pixels]")
    data.add_argument("--upscale", action="store_true", default=None, help="enlarge smaller pictures")
    parser.add_argument(
        "--num-images", type=int, default=2048, help="so many generated ones, and real ones (default: 2048)"
    )
    parser.add_argument(
        "--features",
        default="effnetlite0",
        help="what pictures are seen through: effnetlite0 (default), which needs no download, or inception, for the "
        "published protocol",
    )
    parser.add_argument("--picture", type=Path, help="draw the nearest real pictures here (default: in a run folder)")
    add_batch_size(parser)


def run(options: argparse.Namespace) -> None:
    """Measure, print, and write into the run folder if it is one."""
    if options.picture is not None and options.picture.suffix.lower() not in PICTURE_SUFFIXES:
        raise ValueError(f"--picture is {str(options.picture)!r}; it must end in {', '.join(PICTURE_SUFFIXES)}")

    from fagan_hf.allocator import keep_freed_memory
    from fagan_hf.data import prepare_images
    from fagan_hf.metrics.evaluate import evaluate
    from fagan_hf.metrics.features import build_features

    keep_freed_memory()
    extractor = build_features(options.features)  # a missing package is told before anything is loaded
    generator = load_generator(options)
    images = prepare_images(_source(options, generator.config.image_size))
    evaluation = evaluate(
        generator,
        images,
        features=extractor,
        num_images=options.num_images,
        batch_size=options.batch_size,
    )
    print(evaluation.table())
    if _is_run_folder(Path(options.model)):
        _keep(Path(options.model), evaluation)
    if options.picture is not None:
        _draw(evaluation, options.picture)


def _source(options: argparse.Namespace, resolution: int) -> "ImageSource":
    """Read the data's flags; what is not given is the recipe's, if it names the same data set."""
    from fagan_hf.image_sources import ImageSource
    from fagan_hf.repository import read_recipe

    recipe = read_recipe(Path(options.model))
    given: dict[str, Any] = {
        "dataset": options.dataset,
        "split": options.split,
        "revision": options.dataset_revision,
        "image_column": options.image_column,
        "label_columns": options.label_columns,
        "crop": options.crop,
        "upscale": options.upscale,
    }
    wanted = {name: value for name, value in given.items() if value is not None}
    if options.dataset in (None, recipe.get("dataset")):
        known = {field.name for field in fields(ImageSource)}
        wanted = {name: value for name, value in recipe.items() if name in known and value is not None} | wanted
    if "dataset" not in wanted:
        raise ValueError(f"{options.model} has no recipe that names its data; say what to compare with: --dataset")
    return ImageSource(resolution=resolution, **wanted)


def _is_run_folder(folder: Path) -> bool:
    from fagan_hf.repository import FACTS, weights_hash

    return (folder / FACTS).is_file() and weights_hash(folder) is not None


def _keep(folder: Path, evaluation: "Evaluation") -> None:
    """Write numbers, picture and card."""
    from fagan_hf.cards import write_card
    from fagan_hf.repository import CARD, METRICS, NEIGHBOURS, write_text

    evaluation.keep(folder)
    card = folder / CARD
    write_text(card, write_card(folder, existing=card.read_text(encoding="utf-8") if card.is_file() else None))
    print(f"in {folder / METRICS}, {NEIGHBOURS} and {CARD}")


def _draw(evaluation: "Evaluation", path: Path) -> None:
    from fagan_hf.files import replacing

    with replacing(path) as aside:
        evaluation.nearest_picture().save(aside, format=path.suffix[1:].lower().replace("jpg", "jpeg"))
