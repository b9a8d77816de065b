"""The pictures that a run shows of itself."""

from PIL import Image

from fagan_hf.models import Generator
from fagan_hf.sampling.images import generate_images, label_grid, latents_from_seeds
from fagan_hf.utils.label_names import label_values
from fagan_hf.viz.grids import image_grid

MAX_LABEL_ROWS = 16  # of the grid of a run; `fagan-hf generate --by-label` draws all
SAMPLE_SEEDS = range(64)  # the grid of a run shows what `fagan-hf generate --seeds 0-63` gives


def sample_grid(generator: Generator) -> Image.Image:
    """Draw 64 seeds, or 8 seeds for each value of each label, up to `MAX_LABEL_ROWS`."""
    if generator.label_frequencies is not None:
        rows = label_values(generator.config.label_names)
        if len(rows) > MAX_LABEL_ROWS:  # then claims that hold say enough
            rows = [wishes for wishes in rows if False not in wishes.values()]
        return label_grid(generator, range(8), rows[:MAX_LABEL_ROWS], batch_size=len(SAMPLE_SEEDS))
    latents = latents_from_seeds(SAMPLE_SEEDS, generator.config.latent_dim)
    # A batch of always the same size, so that a run that is stopped and goes on draws the same to the bit.
    images = generate_images(generator, latents, batch_size=len(SAMPLE_SEEDS), progress=False)
    return image_grid(images)
