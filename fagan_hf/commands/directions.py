"""``fagan-hf directions``: what to add to a latent so that its picture shows more of a label."""

import argparse
from pathlib import Path

from fagan_hf.commands.options import (
    add_images,
    add_model,
    image_source,
    is_run_folder,
    load_generator,
)
from fagan_hf.commands.pictures import check_picture, save_picture


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.description = (
        "Find the direction of the latent space along which pictures show more of each label of the data, for models "
        "that know no labels themselves. A run folder keeps them, and a demo of it gets sliders."
    )
    add_model(parser, is_positional=True)
    add_images(parser)
    parser.add_argument("--out", type=Path, help="file for the directions: .safetensors (default: in a run folder)")
    parser.add_argument("--picture", type=Path, help="draw one seed moved along all of them")
    parser.add_argument("--seed", type=int, default=0, help="of that picture (default: 0)")
    parser.add_argument("--num-images", type=int, default=4096, help="so many are generated (default: 4096)")


def run(options: argparse.Namespace) -> None:
    """Find them, print how well they hold, and keep them."""
    from fagan_hf.hub.repository import DIRECTIONS

    check_picture(options.picture)
    if options.out is None and not is_run_folder(Path(options.model)):
        raise ValueError(f"{options.model} is no run folder to keep the directions in; say where: --out")
    out = options.out or Path(options.model) / DIRECTIONS
    if out.suffix != ".safetensors":
        raise ValueError(f"--out is {str(out)!r}; it must end in .safetensors")

    import numpy as np

    from fagan_hf.data.prepare import prepare_images
    from fagan_hf.latent_space.directions import directions_picture, find_directions

    generator = load_generator(options)
    source = image_source(options, generator.config.image_size)
    if not source.label_columns:
        raise ValueError(f"name the labels of {source.dataset} whose directions are wanted: --label-columns")
    images = prepare_images(source)
    found = find_directions(
        generator, np.asarray(images.array), images.labels, images.label_names, num_images=options.num_images
    )
    found.save(out)
    width = max(map(len, found.names))
    for name, correlation in zip(found.names, found.correlations, strict=True):
        print(f"{name:<{width}}  {correlation:.2f}")
    print(f"{len(found.names)} directions, and how much of each label follows its own, from 0 to 1; in {out}")
    if options.picture is not None:
        save_picture(directions_picture(generator, found, options.seed, scale=3), options.picture, make_folder=True)
