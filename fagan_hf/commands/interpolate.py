"""``fagan-hf interpolate``: a video that interpolates between images."""

import argparse
from pathlib import Path

from fagan_hf.commands.options import add_batch_size, add_checkpoint, add_latents, add_model, drawing, load_generator
from fagan_hf.commands.switches import add_switch


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.description = (
        "Make a video that interpolates from seed to seed along the sphere of latents, and back to the first. Labels "
        "of a conditional model are interpolated linearly; those given with --label stay fixed."
    )
    add_model(parser)
    add_checkpoint(parser)
    add_latents(parser, default_seeds="0-5")
    parser.add_argument("--out", type=Path, required=True, help="video: .gif, .webp, or .mp4, which needs ffmpeg")
    parser.add_argument("--frames", type=int, default=30, help="frames between two images (default: 30)")
    parser.add_argument("--frames-per-second", type=float, default=30, help="frame rate (default: 30)")
    add_switch(parser, "--loop", "return from the last seed to the first", default=True)
    parser.add_argument("--scale", type=int, help="integer upscaling (default: to at least 256 pixels)")
    add_batch_size(parser)


def run(options: argparse.Namespace) -> None:
    """Interpolate, generate the frames, and save the video."""
    from fagan_hf.viz.films import check_film, write_film

    check_film(options.out, options.frames_per_second)
    if len(set(options.seeds)) < 2:
        raise ValueError(f"--seeds are {options.seeds}; interpolation needs at least two different ones, like '0-5'")

    from fagan_hf.latent_space.walks import lerp, walk
    from fagan_hf.sampling.images import generate_images
    from fagan_hf.viz.grids import enlarged

    is_loop = options.loop
    with drawing(load_generator(options, options.checkpoint), options) as (generator, latents, labels):
        latents = walk(latents, options.frames, is_loop=is_loop)
        if labels is not None:
            labels = walk(labels, options.frames, is_loop=is_loop, interpolation=lerp)
        frames = generate_images(generator, latents, labels, batch_size=options.batch_size)
    write_film(
        options.out, enlarged(frames, options.scale), frames_per_second=options.frames_per_second, make_folder=True
    )
    print(f"{len(frames)} frames, {len(frames) / options.frames_per_second:.1f} s, in {options.out}")
