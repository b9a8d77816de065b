"""``fagan-hf project``: find the latent of an image."""

import argparse
from pathlib import Path
from typing import Any

from fagan_hf.commands.options import add_labels, add_model, chosen_labels, load_discriminator, load_generator


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.description = (
        "Find the latent of the generated image closest to a given one. Content that the model never learned can't be "
        "reconstructed: see comparison.png."
    )
    parser.add_argument("picture", type=Path, metavar="PICTURE", help="any image; its center square is used")
    add_model(parser)
    add_labels(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder for the latent and the images")
    parser.add_argument("--steps", type=int, default=200, help="maximum steps from each start (default: 200)")
    parser.add_argument("--starts", type=int, default=2, help="number of random latents to start from (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random latents (default: 0)")


def run(options: argparse.Namespace) -> None:
    """Find the latent, and save the results."""
    if not options.picture.is_file():
        raise FileNotFoundError(f"{str(options.picture)!r} is not a file; give an image, such as a .png or .jpg")
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out is {str(options.out)!r}, which is a file; it must be a folder")

    import torch

    from fagan_hf.latent_space.projection import project

    generator = load_generator(options)
    pixels = _read(options.picture, generator.config.image_size, generator.config.image_channels)
    found = project(
        generator,
        torch.from_numpy(pixels).float() / 127.5 - 1,
        discriminator=load_discriminator(options, "only pixels are compared"),
        labels=chosen_labels(generator, options),
        steps=options.steps,
        starts=options.starts,
        seed=options.seed,
    )
    latent = _write(options.out, pixels.transpose(1, 2, 0), found)
    if found.labels is not None:
        named = zip(generator.config.label_names, found.labels[0].tolist(), strict=True)
        held = [name if number == 1 else f"{name} {number:g}" for name, number in named if number]
        print(f"With the labels {', '.join(held) or 'none'}; choose others with --label")
    print(f"Mean squared error {found.distance:.5f} of pixels in [-1, 1]: see {options.out / 'comparison.png'}")
    print(f'Generate it again: pipe(**load_file("{latent}")), with load_file from safetensors.torch')


def _read(picture: Path, size: int, channels: int) -> Any:
    """Read an image as training does: uint8 ``[channels, size, size]``."""
    from fagan_hf.data.decode import UnusableImageError, decode_image

    try:
        return decode_image(picture, resolution=size, channels=channels, upscale=True)
    except UnusableImageError as error:
        raise ValueError(f"{str(picture)!r} {error}; give an image, such as a .png or .jpg") from error


def _write(folder: Path, given: Any, found: Any) -> Path:
    import numpy as np
    from safetensors.torch import save_file

    from fagan_hf.utils.files import replacing
    from fagan_hf.viz.colors import as_picture
    from fagan_hf.viz.grids import enlarged, image_grid

    tensors = {"latents": found.latents} | ({} if found.labels is None else {"labels": found.labels})
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "latent.safetensors") as path:
        save_file(tensors, path)
    with replacing(folder / "reconstruction.png") as path:
        as_picture(found.reconstruction).save(path, format="PNG")
    with replacing(folder / "comparison.png") as path:
        image_grid(enlarged(np.stack([given, found.reconstruction])), columns=2).save(path, format="PNG")
    return folder / "latent.safetensors"
