"""``fagan-hf directions``: find the latent-space directions of labels."""

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
        "Find the direction in latent space for each label of the data, for unconditional models. They are saved in "
        "the run folder, and the demo shows a slider for each."
    )
    add_model(parser, is_positional=True)
    add_images(parser)
    parser.add_argument("--out", type=Path, help="output file, .safetensors (default: in the run folder)")
    parser.add_argument("--picture", type=Path, help="save a grid of one seed moved along each direction")
    parser.add_argument("--seed", type=int, default=0, help="seed of that grid (default: 0)")
    parser.add_argument("--num-images", type=int, default=4096, help="number of generated images (default: 4096)")


def run(options: argparse.Namespace) -> None:
    """Find the directions, print how well they fit, and save them."""
    from fagan_hf.hub.repository import DIRECTIONS

    check_picture(options.picture)
    if options.out is None and not is_run_folder(Path(options.model)):
        raise ValueError(f"{options.model} is not a run folder to save the directions in; use --out")
    out = options.out or Path(options.model) / DIRECTIONS
    if out.suffix != ".safetensors":
        raise ValueError(f"--out is {str(out)!r}; it must end in .safetensors")

    import numpy as np

    from fagan_hf.data.prepare import prepare_images
    from fagan_hf.latent_space.directions import directions_picture, find_directions

    generator = load_generator(options)
    source = image_source(options, generator.config.image_size)
    if not source.label_columns:
        raise ValueError(f"choose the labels of {source.dataset} to find directions for: --label-columns")
    images = prepare_images(source)
    found = find_directions(
        generator, np.asarray(images.array), images.labels, images.label_names, num_images=options.num_images
    )
    found.save(out)
    width = max(map(len, found.names))
    for name, correlation in zip(found.names, found.correlations, strict=True):
        print(f"{name:<{width}}  {correlation:.2f}")
    print(f"{len(found.names)} directions, with the correlation of each label with its direction (0 to 1); in {out}")
    if options.picture is not None:
        save_picture(directions_picture(generator, found, options.seed, scale=3), options.picture, make_folder=True)
