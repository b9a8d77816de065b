"""The sample grid of a run."""

from PIL import Image

from fagan_hf.models import Generator
from fagan_hf.sampling.images import generate_images, label_grid, latents_from_seeds
from fagan_hf.utils.label_names import label_values
from fagan_hf.viz.grids import image_grid

MAX_LABEL_ROWS = 16  # in the grid of a run; `fagan-hf generate --by-label` shows all values
SAMPLE_SEEDS = range(64)  # the grid of a run equals `fagan-hf generate --seeds 0-63`


def sample_grid(generator: Generator) -> Image.Image:
    """Generate a grid of 64 seeds, or of 8 seeds for each label value, up to `MAX_LABEL_ROWS`."""
    if generator.label_frequencies is not None:
        rows = label_values(generator.config.label_names)
        if len(rows) > MAX_LABEL_ROWS:  # then show binary attributes only where they are true
            rows = [labels for labels in rows if False not in labels.values()]
        return label_grid(generator, range(8), rows[:MAX_LABEL_ROWS], batch_size=len(SAMPLE_SEEDS))
    latents = latents_from_seeds(SAMPLE_SEEDS, generator.config.latent_dim)
    # The batch size is fixed, so that a resumed run generates bit-identical grids.
    images = generate_images(generator, latents, batch_size=len(SAMPLE_SEEDS), progress=False)
    return image_grid(images)
