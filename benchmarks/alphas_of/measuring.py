"""Everything that is measured of one trained model."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.alphas_of.controls import CONTROLS, replaced_weights
from benchmarks.alphas_of.looks import Look, looks
from benchmarks.alphas_of.trajectories import read_history
from benchmarks.alphas_of.worth import worth
from fagan_hf.data.avatar_parts import source_parts
from fagan_hf.data.cache import Images
from fagan_hf.data.image_source import ImageSource
from fagan_hf.layers import gates
from fagan_hf.metrics import ablate, evaluate
from fagan_hf.models import Discriminator, Generator
from fagan_hf.sampling.images import labels_from_seeds, latents_from_seeds

LOOKED_AT = 16
"""Number of seeds and of real images whose attention is measured."""


def measure(
    folder: Path,
    source: ImageSource,
    images: Images,
    *,
    num_images: int,
    features: Any = "effnetlite0",
    is_thorough: bool = True,
) -> dict[str, Any]:
    """Measure a model: its gates over training, their worth, where it looks, and controls at test time.

    Args:
        folder: A run folder or a model repository.
        source: The real images.
        images: The same, prepared.
        num_images: Number of images of each evaluation.
        features: See `fagan_hf.metrics.evaluate`.
        is_thorough: Whether gates are closed and weights replaced; otherwise only the distance is measured.

    Raises:
        FileNotFoundError: The model has no history.
        ValueError: It has no gates.
    """
    generator, discriminator = Generator.from_pretrained(folder), Discriminator.from_pretrained(folder)
    if not gates(generator):
        raise ValueError(f"{folder} has a generator without attention, so there are no gates to study")
    options: dict[str, Any] = {"num_images": num_images, "features": features, "batch_size": LOOKED_AT}
    found: dict[str, Any] = {"history": read_history(folder), "num_images": num_images}
    if not is_thorough:
        first = evaluate(generator, images, progress=False, **options).metrics()[0]
        return found | {"worth": {"metric": first.name, "trained": float(f"{first.value:.5g}")}}
    found["worth"] = worth(ablate(generator, images, alone=True, progress=False, **options))
    found["looks"] = _looks(generator, discriminator, source, images)
    found["controls"] = {}
    for control in CONTROLS:
        with replaced_weights(generator, control):
            first = evaluate(generator, images, progress=False, **options).metrics()[0]
        found["controls"][control] = float(f"{first.value:.5g}")
    return found


def _looks(
    generator: Generator, discriminator: Discriminator, source: ImageSource, images: Images
) -> dict[str, dict[str, Look]]:
    """Measure where both networks look; masks are known of the real avatars that the discriminator sees."""
    seeds = range(LOOKED_AT)
    latents = latents_from_seeds(seeds, generator.config.latent_dim)
    count = min(LOOKED_AT, len(images))
    real = torch.from_numpy(np.array(images.array[:count])).float() / 127.5 - 1
    labels = torch.from_numpy(np.array(images.labels[:count])) if discriminator.config.label_names else None
    try:
        parts = source_parts(source, count)
    except ValueError:  # images whose parts are not known
        parts = None
    return {
        "generator": looks(generator, latents, labels_from_seeds(generator, seeds)),
        "discriminator": looks(discriminator, real, labels, parts=parts),
    }
