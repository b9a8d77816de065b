"""``fagan-hf generate``: generate images from seeds."""

import argparse
from pathlib import Path
from typing import Any

from fagan_hf.commands.options import add_batch_size, add_checkpoint, add_latents, add_model, drawing, load_generator
from fagan_hf.commands.pictures import PICTURE_SUFFIXES, is_picture, save_picture
from fagan_hf.commands.switches import add_switch


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.description = "Generate images. Each seed maps to one image, on any device and for any batch size."
    add_model(parser)
    add_checkpoint(parser)
    add_latents(parser, default_seeds="0-15")
    parser.add_argument(
        "--out", type=Path, required=True, help=f"grid ({', '.join(PICTURE_SUFFIXES)}), or a folder for single images"
    )
    parser.add_argument("--columns", type=int, help="images per row of the grid (default: roughly square)")
    add_switch(parser, "--by-label", "one row for each value of each label")
    parser.add_argument("--scale", type=int, default=1, help="integer upscaling of the grid's images (default: 1)")
    add_batch_size(parser)


def run(options: argparse.Namespace) -> None:
    """Generate images, and save a grid or single files."""
    is_grid = is_picture(options.out)
    if not is_grid and options.out.suffix and not options.out.is_dir():
        raise ValueError(f"--out is {str(options.out)!r}; it must end in {', '.join(PICTURE_SUFFIXES)}, or be a folder")
    if options.by_label and (not is_grid or options.label or options.columns):
        raise ValueError("--by-label makes its own grid; don't combine it with --label, --columns or a folder")
    with drawing(load_generator(options, options.checkpoint), options) as (generator, latents, labels):
        write = _write_grid if is_grid else _write_folder
        write(generator, latents, labels, options)
    pictures = "1 picture" if len(latents) == 1 else f"{len(latents)} pictures"
    print(f"{'grid by label' if options.by_label else pictures} in {options.out}")


def _write_grid(generator: Any, latents: Any, labels: Any, options: argparse.Namespace) -> None:
    from fagan_hf.sampling.images import generate_images, label_grid
    from fagan_hf.viz.grids import enlarged, image_grid

    if options.by_label:
        grid = label_grid(
            generator,
            options.seeds,
            truncation=options.truncation,
            scale=options.scale,
            batch_size=options.batch_size,
        )
    else:
        images = generate_images(generator, latents, labels, batch_size=options.batch_size)
        grid = image_grid(enlarged(images, options.scale), options.columns)
    save_picture(grid, options.out, make_folder=True)


def _write_folder(generator: Any, latents: Any, labels: Any, options: argparse.Namespace) -> None:
    from fagan_hf.sampling.images import sample, to_uint8
    from fagan_hf.utils.files import replacing
    from fagan_hf.viz.colors import as_picture

    options.out.mkdir(parents=True, exist_ok=True)
    seeds = iter(options.seeds)
    for batch in sample(generator, latents, labels, batch_size=options.batch_size):
        for pixels in to_uint8(batch):
            with replacing(options.out / f"seed-{next(seeds):08d}.png") as path:
                as_picture(pixels).save(path, format="PNG")
