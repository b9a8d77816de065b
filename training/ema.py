"""The averaged generator: what is shown, saved and published."""

import copy

import torch
from torch import nn

from fagan_hf.layers import refresh_spectral_norms
from fagan_hf.models import Generator
from training.randomness import draw_latents, random_stream

STATISTICS_BATCHES = 16
STATISTICS_BATCH_SIZE = 64


class AveragedGenerator:
    """An exponential moving average of a generator's parameters, with a half-life in images.

    Parameters are averaged. Buffers are not: averaged singular vectors or batch statistics would belong to no network.
    `refresh` measures them for the averaged parameters instead.

    Args:
        generator: The one that is trained.
        half_life_images: After so many images a parameter's old value counts one half.
        ramp: The half-life is at most this share of the images seen, so that a young average follows closely. The idea
            is StyleGAN2's; 0.05 is what Karras et al. use in EDM.
    """

    def __init__(self, generator: Generator, half_life_images: int, ramp: float = 0.05):
        self.model = copy.deepcopy(generator).requires_grad_(False).eval()
        self.half_life_images = half_life_images
        self.ramp = ramp

    @torch.no_grad()
    def update(self, generator: nn.Module, batch_size: int, images_seen: int) -> None:
        """Move the average towards the generator after a step of ``batch_size`` images.

        Args:
            generator: The trained one, unwrapped.
            batch_size: Images of the step, over all processes.
            images_seen: Images of the run, with this step's.
        """
        half_life = min(self.half_life_images, self.ramp * images_seen)
        share = 1 - 0.5 ** (batch_size / max(half_life, 1e-8))
        torch._foreach_lerp_(list(self.model.parameters()), list(generator.parameters()), share)

    @torch.no_grad()
    def refresh(self, generator: Generator, seed: int) -> None:
        """Measure spectral norms and batch statistics of the averaged parameters; the same however often it is called.

        Args:
            generator: The trained one, unwrapped: its singular vectors are where the measurement starts from.
            seed: The run's, for the latents that batch statistics are measured with.
        """
        for buffer, trained in zip(self.model.buffers(), generator.buffers(), strict=True):
            buffer.copy_(trained)
        refresh_spectral_norms(self.model)
        norms = [module for module in self.model.modules() if isinstance(module, nn.BatchNorm2d)]
        if not norms:
            return
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches
            norm.train()
        random = random_stream(seed, "statistics")
        config = self.model.config
        for _ in range(STATISTICS_BATCHES):
            latents = draw_latents(random, STATISTICS_BATCH_SIZE, config.latent_dim)
            self.model(latents.to(self.model.device, self.model.dtype))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
