"""``fagan-hf evaluate``: metrics of a model, and the real images nearest to its own."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fagan_hf.commands.options import (
    add_alpha,
    add_batch_size,
    add_images,
    add_model,
    image_source,
    is_run_folder,
    load_generator,
    turned_gates,
)
from fagan_hf.commands.pictures import check_picture, save_picture
from fagan_hf.commands.switches import add_switch

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
    parser.add_argument(
        "--size",
        type=int,
        default=64,
        help="for a folder or archive of images instead of a model: side to which they and those of --dataset are "
        "resized [pixels] (default: 64)",
    )
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
    add_switch(
        parser,
        "--all",
        "of a run folder: measure every checkpoint and snapshot with the same seeds, say which is the best, and save "
        "the numbers in evaluations.json",
    )
    add_alpha(parser)
    parser.add_argument("--picture", type=Path, help="save the nearest real images here (default: in the run folder)")
    add_batch_size(parser)


def run(options: argparse.Namespace) -> None:
    """Evaluate, print the results, and save them if the model is a run folder."""
    check_picture(options.picture)
    if options.alpha and (options.all or _is_images(options.model)):
        raise ValueError("--alpha overrides the gates of one model; leave out --all, and choose a model")

    from fagan_hf.data.prepare import prepare_images
    from fagan_hf.metrics.evaluate import evaluate
    from fagan_hf.metrics.features import build_features
    from fagan_hf.utils.allocator import keep_freed_memory

    keep_freed_memory()
    extractor = build_features(options.features)  # report a missing package before loading anything
    if _is_images(options.model):
        _compare_images(options, extractor)
        return
    if options.all:
        _evaluate_all(options, extractor)
        return
    generator = load_generator(options)
    images = prepare_images(image_source(options, generator.config.image_size))
    with turned_gates(generator, options):
        evaluation = evaluate(
            generator,
            images,
            features=extractor,
            num_images=options.num_images,
            batch_size=options.batch_size,
        )
        print(evaluation.table())
        if options.picture is not None:
            save_picture(evaluation.nearest_picture(), options.picture, make_folder=True)
    if options.alpha:
        print("not saved with the model, whose gates are others: --alpha")
    elif is_run_folder(Path(options.model)):
        _keep(Path(options.model), evaluation)


def _evaluate_all(options: argparse.Namespace, extractor: Any) -> None:
    """Measure every checkpoint of a run."""
    from fagan_hf.data.prepare import prepare_images
    from fagan_hf.metrics.checkpoints import evaluate_checkpoints

    if options.picture is not None:
        raise ValueError("--picture shows a single model; leave out --all")
    folder = Path(options.model).expanduser()
    if not folder.is_dir():
        raise ValueError(f"--all measures the checkpoints of a run folder, but {options.model!r} is no local folder")
    generator = load_generator(options)
    found = evaluate_checkpoints(
        folder,
        prepare_images(image_source(options, generator.config.image_size)),
        device=generator.device,
        features=extractor,
        num_images=options.num_images,
        batch_size=options.batch_size,
    )
    print(found.table())
    print(f"saved in {found.keep(folder)}; `fagan-hf generate --model {folder} --checkpoint best` loads the best")


def _is_images(name: str) -> bool:
    """Return whether a name is that of local images rather than of a model."""
    from fagan_hf.data.archives import is_archive
    from fagan_hf.data.rows import table_files
    from fagan_hf.hub.repository import CONFIG, GENERATOR

    path = Path(name).expanduser()
    if path.is_file():
        return is_archive(path) or bool(table_files(path))
    return path.is_dir() and not any((path / each).is_file() for each in (CONFIG, f"{GENERATOR}/{CONFIG}"))


def _compare_images(options: argparse.Namespace, extractor: Any) -> None:
    """Compare local images with real ones."""
    from fagan_hf.data.image_source import ImageSource
    from fagan_hf.data.prepare import prepare_images
    from fagan_hf.metrics.evaluate import compare_images

    if options.dataset is None:
        raise ValueError(f"{options.model} contains images and no model; choose the real images: --dataset")
    real = prepare_images(image_source(options, options.size))
    given = prepare_images(ImageSource(options.model, options.size, upscale=bool(options.upscale), crop=options.crop))
    print(compare_images(given, real, features=extractor, num_images=options.num_images).table())


def _keep(folder: Path, evaluation: "Evaluation") -> None:
    """Save metrics, picture and card."""
    from fagan_hf.hub.card import write_card
    from fagan_hf.hub.repository import CARD, METRICS, NEIGHBORS, write_text

    evaluation.keep(folder)
    card = folder / CARD
    write_text(card, write_card(folder, existing=card.read_text(encoding="utf-8") if card.is_file() else None))
    print(f"saved in {folder / METRICS}, {NEIGHBORS} and {CARD}")
