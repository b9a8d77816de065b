"""The averaged generator (EMA), which is sampled, saved and published."""

import copy
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fagan_hf.layers import refresh_spectral_norms
from fagan_hf.models import Generator
from fagan_hf.sampling.standing_statistics import BATCH_SIZE, BATCHES, measure_batch_statistics
from fagan_hf.training.step.randomness import draw_latents, random_stream


class AveragedGenerator:
    """An exponential moving average of a generator's parameters, with a half-life in images.

    Parameters are averaged. Buffers are not: averaged singular vectors or batch statistics would not match any network.
    `refresh` recomputes them for the averaged parameters instead.

    Args:
        generator: The trained generator.
        half_life_images: Number of images after which the weight of an old value has halved.
        ramp: The half-life is at most this fraction of the images seen, so that an early average follows closely. The
            idea is from StyleGAN2; Karras et al. use 0.05 in EDM.
    """

    def __init__(self, generator: Generator, half_life_images: int, ramp: float = 0.05):
        self.model = copy.deepcopy(generator).requires_grad_(False).eval()
        self.half_life_images = half_life_images
        self.ramp = ramp

    @torch.no_grad()
    def update(self, generator: nn.Module, batch_size: int, images_seen: int) -> None:
        """Update the average after a step of ``batch_size`` images.

        Args:
            generator: The trained generator, unwrapped.
            batch_size: Images of the step, over all processes.
            images_seen: Images of the run, including this step.
        """
        half_life = min(self.half_life_images, self.ramp * images_seen)
        share = 1 - 0.5 ** (batch_size / max(half_life, 1e-8))
        torch._foreach_lerp_(list(self.model.parameters()), list(generator.parameters()), share)

    @torch.no_grad()
    def refresh(
        self, generator: Generator, seed: int, labels: Float[np.ndarray, "images num_labels"] | None = None
    ) -> None:
        """Recompute spectral norms and batch statistics for the averaged parameters; idempotent.

        Args:
            generator: The trained generator, unwrapped; its singular vectors are the starting point.
            seed: Seed of the run, for the latents and labels used for batch statistics.
            labels: Labels of the dataset, for a conditional generator.
        """
        for buffer, trained in zip(self.model.buffers(), generator.buffers(), strict=True):
            buffer.copy_(trained)
        refresh_spectral_norms(self.model)
        measure_batch_statistics(self.model, _statistics_batches(self.model, seed, labels))


def _statistics_batches(
    generator: Generator, seed: int, labels: np.ndarray | None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    latents, choice = random_stream(seed, "statistics"), random_stream(seed, "statistics_labels")
    for _ in range(BATCHES):
        chosen = None
        if generator.config.num_labels:
            assert labels is not None
            rows = torch.randint(len(labels), (BATCH_SIZE,), generator=choice)
            chosen = torch.from_numpy(labels[rows.numpy()])
        yield draw_latents(latents, BATCH_SIZE, generator.config.latent_dim), chosen
