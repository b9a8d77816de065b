"""Latent-space directions: what to add to a latent to increase a label's score in its image.

An unconditional generator has no labels, but its data may. A classifier trained on real images scores generated ones;
the direction of a label is the one along which its score increases.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fagan_hf.latent_space.linear_classifier import LinearClassifier
from fagan_hf.models import Generator
from fagan_hf.sampling.images import generate_images, labels_from_seeds, latents_from_seeds
from fagan_hf.utils.files import replacing
from fagan_hf.utils.json_text import parse_json
from fagan_hf.viz.grids import enlarged, image_grid

NUM_IMAGES = 4096
FIRST_SEED = 2_000_000  # far from the seeds that users look at
VISIBLE_OVERLAP = 0.3  # cosine between two directions above which one visibly changes what the other is about

_NAMES, _VECTORS, _CORRELATIONS = "names", "vectors", "correlations"


@dataclass(frozen=True, eq=False)
class Directions:
    """Directions of one generator's latent space.

    Attributes:
        names: Names of the labels, such as ``"beard"`` or ``"hair=red"``.
        vectors: A unit vector per label; moving a latent by 1 to 3 along it changes its image visibly.
        correlations: Correlation of the classifier's scores of generated images with the direction, from 0 to 1: if far
            below the others, a single direction does not capture the label.
    """

    names: tuple[str, ...]
    vectors: Float[Tensor, "labels latent_dim"]
    correlations: tuple[float, ...]

    def move(
        self, latents: Float[Tensor, "count latent_dim"], strengths: dict[str, float]
    ) -> Float[Tensor, "count latent_dim"]:
        """Move latents along some directions, and rescale each to its original length.

        The generator was trained on latents of similar length; see `fagan_hf.latent_space.walks.slerp`.

        Raises:
            ValueError: There is no such direction.
        """
        self._check(strengths)
        lengths = latents.norm(dim=1, keepdim=True)
        steps = [strength * self.vectors[self.names.index(name)] for name, strength in strengths.items()]
        moved = latents + sum(steps, torch.zeros(latents.shape[1]))
        return moved * (lengths / moved.norm(dim=1, keepdim=True).clamp(min=1e-12))

    def dragged(self, name: str) -> dict[str, float]:
        """Return what else changes along a direction: other labels' directions that overlap with it visibly.

        Values of one label exclude each other, so the others of the same label are left out.

        Returns:
            Cosine between the directions by name, the strongest first; negative for what becomes less.

        Raises:
            ValueError: There is no such direction.
        """
        self._check([name])
        cosines = (self.vectors @ self.vectors[self.names.index(name)]).tolist()
        label = name.partition("=")[0]
        found = {
            other: cosine
            for other, cosine in zip(self.names, cosines, strict=True)
            if other.partition("=")[0] != label and abs(cosine) > VISIBLE_OVERLAP
        }
        return dict(sorted(found.items(), key=lambda item: -abs(item[1])))

    def _check(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.names:
                raise ValueError(f"unknown direction {name!r}; there are: {', '.join(self.names)}")

    def save(self, path: Path) -> None:
        """Save the directions atomically."""
        tensors = {_VECTORS: self.vectors.contiguous(), _CORRELATIONS: torch.tensor(self.correlations)}
        with replacing(path, make_folder=True) as aside:
            save_file(tensors, aside, metadata={_NAMES: json.dumps(self.names)})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Load directions that `save` wrote.

        Raises:
            ValueError: The file does not contain directions, or is corrupt.
        """
        try:
            with safe_open(path, framework="pt") as file:
                names = tuple(parse_json(file.metadata()[_NAMES]))
                vectors, correlations = file.get_tensor(_VECTORS), file.get_tensor(_CORRELATIONS)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{str(path)!r} does not contain directions ({error}); create it with `fagan-hf directions`"
            ) from error
        if vectors.ndim != 2 or not len(names) == len(vectors) == len(correlations):
            raise ValueError(f"{str(path)!r} has {len(names)} names for vectors {list(vectors.shape)}; create it again")
        return cls(names, vectors, tuple(correlations.tolist()))


def find_directions(
    generator: Generator,
    images: UInt8[np.ndarray, "images channels size size"],
    labels: Float[np.ndarray, "images num_labels"],
    names: Sequence[str],
    *,
    num_images: int = NUM_IMAGES,
    progress: bool = True,
) -> Directions:
    """Find the direction of each label.

    The classifier's scores of generated images are fitted by a linear function of their latents, and the direction is
    that of steepest ascent.

    Args:
        generator: A generator of the images' resolution.
        images: Real images.
        labels: Their labels, 0 or 1.
        names: Names of the labels.
        num_images: Number of images to generate.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: There are no labels, or the images have another size.

    Reference:
        A linear boundary in the latent space for each attribute: Shen et al., arXiv:1907.10786 (InterFaceGAN).
    """
    size = generator.config.image_size
    if not names or labels.shape != (len(images), len(names)):
        raise ValueError(f"{len(names)} names for labels {list(labels.shape)} of {len(images)} images; they must match")
    if images.shape[1:] != (3, size, size):
        raise ValueError(f"images are {list(images.shape)}; this generator's are [3, {size}, {size}]")
    classifier = LinearClassifier(images, labels)
    seeds = range(FIRST_SEED, FIRST_SEED + num_images)
    latents = latents_from_seeds(seeds, generator.config.latent_dim)
    drawn = generate_images(generator, latents, labels_from_seeds(generator, seeds), progress=progress)
    scores = classifier.scores(drawn.transpose(0, 3, 1, 2))
    scores = scores - scores.mean(0)
    vectors = torch.linalg.lstsq(latents.double(), scores).solution.T
    vectors = vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-12)
    along = latents.double() @ vectors.T
    along = along - along.mean(0)
    correlations = (along * scores).sum(0) / (along.norm(dim=0) * scores.norm(dim=0)).clamp(min=1e-12)
    return Directions(tuple(names), vectors.float(), tuple(correlations.tolist()))


def directions_picture(
    generator: Generator,
    directions: Directions,
    seed: int,
    *,
    strengths: Sequence[float] = (-3.0, -1.5, 0.0, 1.5, 3.0),
    scale: int = 1,
) -> Image.Image:
    """Generate a grid of one seed moved along each direction: one row per direction, one column per strength.

    Args:
        generator: The generator of the directions.
        directions: At least one.
        seed: Seed of the latent.
        strengths: Distances to move, of either sign.
        scale: Integer upscaling factor.
    """
    latents = latents_from_seeds([seed], generator.config.latent_dim)
    moved = [directions.move(latents, {name: strength}) for name in directions.names for strength in strengths]
    labels = labels_from_seeds(generator, [seed] * len(moved))
    images = generate_images(generator, torch.cat(moved), labels, progress=False)
    return image_grid(enlarged(images, scale), len(strengths), list(directions.names))
