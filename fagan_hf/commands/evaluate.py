"""``fagan-hf evaluate``: metrics of a model, and the real images nearest to its own."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fagan_hf.commands.options import (
    add_batch_size,
    add_images,
    add_model,
    image_source,
    is_run_folder,
    load_generator,
)
from fagan_hf.commands.pictures import check_picture, save_picture

if TYPE_CHECKING:
    from fagan_hf.metrics.evaluate import Evaluation


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.description = (
        "Compare a model's images with real ones: Fréchet and kernel distance, precision and recall, density and "
        "coverage, and the real images nearest to generated ones. For a run folder the results are saved in it: "
        "metrics.json, nearest.png and the model card."
    )
    add_model(parser, is_positional=True)
    add_images(parser)
    parser.add_argument(
        "--num-images",
        type=int,
        help="number of generated images, and of real ones (default: 2048 for effnetlite0, 50000 for inception)",
    )
    parser.add_argument(
        "--features",
        default="effnetlite0",
        help="feature extractor: effnetlite0 (default), which needs no download, or inception, for the "
        "published protocol",
    )
    parser.add_argument("--picture", type=Path, help="save the nearest real images here (default: in the run folder)")
    add_batch_size(parser)


def run(options: argparse.Namespace) -> None:
    """Evaluate, print the results, and save them if the model is a run folder."""
    check_picture(options.picture)

    from fagan_hf.data.prepare import prepare_images
    from fagan_hf.metrics.evaluate import evaluate
    from fagan_hf.metrics.features import build_features
    from fagan_hf.utils.allocator import keep_freed_memory

    keep_freed_memory()
    extractor = build_features(options.features)  # report a missing package before loading anything
    generator = load_generator(options)
    images = prepare_images(image_source(options, generator.config.image_size))
    evaluation = evaluate(
        generator,
        images,
        features=extractor,
        num_images=options.num_images,
        batch_size=options.batch_size,
    )
    print(evaluation.table())
    if is_run_folder(Path(options.model)):
        _keep(Path(options.model), evaluation)
    if options.picture is not None:
        save_picture(evaluation.nearest_picture(), options.picture, make_folder=True)


def _keep(folder: Path, evaluation: "Evaluation") -> None:
    """Save metrics, picture and card."""
    from fagan_hf.hub.card import write_card
    from fagan_hf.hub.repository import CARD, METRICS, NEIGHBORS, write_text

    evaluation.keep(folder)
    card = folder / CARD
    write_text(card, write_card(folder, existing=card.read_text(encoding="utf-8") if card.is_file() else None))
    print(f"saved in {folder / METRICS}, {NEIGHBORS} and {CARD}")
