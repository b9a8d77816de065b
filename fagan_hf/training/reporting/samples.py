"""The samples of a run: fixed seeds, shown as a grid."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fagan_hf.models import Generator
from fagan_hf.sampling.images import generate_images, label_images, latents_from_seeds
from fagan_hf.utils.label_names import label_values
from fagan_hf.viz.grids import image_grid

MAX_LABEL_ROWS = 16  # in the grid of a run; `fagan-hf generate --by-label` shows all values
SAMPLE_SEEDS = range(64)  # the grid of a run equals `fagan-hf generate --seeds 0-63`
LABEL_SEEDS = range(8)


@dataclass(frozen=True)
class Samples:
    """Generated images and how to show them.

    Attributes:
        images: As generated.
        columns: Images per row of the grid; ``None`` for a square one.
        captions: Caption of each row, if any.
    """

    images: UInt8[np.ndarray, "count height width channels"]
    columns: int | None = None
    captions: list[str] | None = None

    def grid(self) -> Image.Image:
        """Arrange the images in a grid."""
        return image_grid(self.images, self.columns, self.captions)


def generate_samples(generator: Generator) -> Samples:
    """Generate the images of 64 seeds, or of 8 seeds for each label value, up to `MAX_LABEL_ROWS`."""
    size = len(SAMPLE_SEEDS)  # fixed, so that a resumed run generates bit-identical grids
    if generator.label_frequencies is not None:
        rows = label_values(generator.config.label_names)
        if len(rows) > MAX_LABEL_ROWS:  # then show binary attributes only where they are true
            rows = [labels for labels in rows if False not in labels.values()]
        images, captions = label_images(generator, LABEL_SEEDS, rows[:MAX_LABEL_ROWS], batch_size=size)
        return Samples(images, len(LABEL_SEEDS), captions)
    latents = latents_from_seeds(SAMPLE_SEEDS, generator.config.latent_dim)
    return Samples(generate_images(generator, latents, batch_size=size, progress=False))
