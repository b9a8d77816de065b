"""Compare runs on the same data in a minute, with nothing to download.

    python benchmarks/pixel_distance.py runs/avatars-32 runs/other
    python benchmarks/pixel_distance.py runs/avatars-32 --write     into its metrics.json, from where its card takes it

Prints, for each model, the Fréchet distance of generated to real images in the first 48 principal components of the
real pixels, and the share of variance outside of them: above 1 is grain that real images don't have. It sees layout,
colours and variety, and no detail; it is for choosing between recipes on one data set and compares with no published
number.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, UInt8

from fagan_hf import Generator
from fagan_hf.data import ImageSource, prepare_images
from fagan_hf.measurements import Measurement, add_measurement
from fagan_hf.repository import weights_hash
from fagan_hf.sampling import generate_images, latents_from_seeds

COMPONENTS = 48
FIRST_SEED = 1_000_000  # far from the seeds that people look at

Features = Float[np.ndarray, "images components"]


@dataclass(frozen=True)
class PixelComponents:
    """Principal components of a set of images."""

    mean: Float[np.ndarray, " pixels"]
    directions: Float[np.ndarray, "pixels components"]

    @classmethod
    def of(cls, images: UInt8[np.ndarray, "images 3 size size"]) -> Self:
        """Find the components of real images."""
        pixels = torch.from_numpy(_flat(images))
        mean = pixels.mean(0)
        _, directions = torch.linalg.eigh((pixels - mean).T @ (pixels - mean))
        return cls(mean.numpy(), directions[:, -COMPONENTS:].numpy())

    def features(self, images: UInt8[np.ndarray, "images 3 size size"]) -> Features:
        """Give the coordinates of images."""
        return (_flat(images) - self.mean) @ self.directions

    def grain(self, images: UInt8[np.ndarray, "images 3 size size"]) -> float:
        """Give the mean squared distance of images to the space of the components."""
        centred = _flat(images) - self.mean
        return float(((centred - centred @ self.directions @ self.directions.T) ** 2).sum(1).mean())


def _flat(images: UInt8[np.ndarray, "images 3 size size"]) -> Float[np.ndarray, "images pixels"]:
    return images.reshape(len(images), -1).astype(np.float64) / 255


def frechet_distance(first: Features, second: Features) -> float:
    """Compare two sets by their means and covariances: 0 for equal ones."""
    covariances = np.cov(first.T), np.cov(second.T)
    roots = np.sqrt(np.maximum(np.linalg.eigvals(covariances[0] @ covariances[1]).real, 0)).sum()
    shift = ((first.mean(0) - second.mean(0)) ** 2).sum()
    return float(shift + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * roots)


def main() -> None:
    """Print a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="run folders or Hub ids")
    parser.add_argument("--dataset", default="avatars")
    parser.add_argument("--num_images", type=int, default=2048)
    parser.add_argument("--write", action="store_true", help="write the distance into each run folder's metrics.json")
    options = parser.parse_args()
    generators = {name: Generator.from_pretrained(name) for name in options.models}
    [size] = {generator.config.image_size for generator in generators.values()}
    real = np.asarray(prepare_images(ImageSource(options.dataset, resolution=size)).array)
    components = PixelComponents.of(real)
    reference = components.features(real)
    count = options.num_images
    floor = frechet_distance(reference[:count], reference[count : 2 * count])
    print(f"{'fd_pixelpca48_' + str(count):>22}  {'grain':>5}\n{floor:22.2f}  {1:5.2f}  real against real")
    for name, generator in generators.items():
        latents = latents_from_seeds(range(FIRST_SEED, FIRST_SEED + count), generator.config.latent_dim)
        fake = generate_images(generator, latents).transpose(0, 3, 1, 2)
        distance = frechet_distance(components.features(fake), reference)
        print(f"{distance:22.2f}  {components.grain(fake) / components.grain(real):5.2f}  {name}")
        if options.write:
            add_measurement(Path(name), _measurement(Path(name), options.dataset, distance, floor, count, len(real)))


def _measurement(
    folder: Path, dataset: str, distance: float, floor: float, count: int, num_references: int
) -> Measurement:
    weights = weights_hash(folder)
    if weights is None:
        raise ValueError(f"{folder} has no generator; --write is for run folders")
    return Measurement(
        type=f"fd_pixelpca{COMPONENTS}_{count}",
        name="Fréchet distance in principal components of the pixels",
        value=round(distance, 3),
        floor=round(floor, 3),
        features=f"first {COMPONENTS} principal components of the real pixels; sees layout and colours, no detail",
        num_images=count,
        reference=f"all {num_references:,} training images; real against real: {count:,} against {count:,} of them",
        generator=weights,
        dataset=dataset,
        split="train",
        command=f"python benchmarks/pixel_distance.py MODEL --dataset {dataset} --num_images {count}",
    )


if __name__ == "__main__":
    main()
