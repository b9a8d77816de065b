"""Recompute batch-norm statistics for the latents that a generator will be used with."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fagan_hf.models import Generator
from fagan_hf.sampling.images import labels_from_seeds

BATCHES = 16
BATCH_SIZE = 64
_SEED = 20_181_205  # arbitrary but fixed, so that each seed keeps mapping to the same image


def has_batch_statistics(generator: nn.Module) -> bool:
    """Return whether a generator contains a batch norm."""
    return any(isinstance(module, nn.BatchNorm2d) for module in generator.modules())


@torch.no_grad()
def measure_batch_statistics(generator: Generator, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
    """Replace a generator's batch-norm statistics by plain means over batches, and leave it in eval mode.

    Args:
        generator: Modified in place; without batch norm nothing happens.
        batches: Latents and labels for its forward, on any device.
    """
    norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]
    generator.eval()
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
        norm.train()
    device, dtype = generator.device, generator.dtype
    for latents, labels in batches:
        generator(latents.to(device, dtype), None if labels is None else labels.to(device, dtype))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def recalibrated(generator: Generator, truncation: float) -> Generator:
    """Return a generator whose batch-norm statistics fit truncated latents.

    Statistics of full-length latents are wrong for shorter ones: activations become too small and images pale.
    Statistics measured for the actual latents are BigGAN's standing statistics.

    Args:
        generator: In eval mode; not modified.
        truncation: Factor on the latents.

    Returns:
        A copy, or the generator itself if there is nothing to recompute: no batch norm, or a truncation of 1.

    Reference:
        Brock et al., BigGAN, arXiv:1809.11096, section 3.1.
    """
    if truncation == 1.0 or not has_batch_statistics(generator):
        return generator
    dtype = generator.dtype
    generator = copy.deepcopy(generator).float()  # half precision would be too coarse for statistics
    random = torch.Generator().manual_seed(_SEED)

    def batches() -> Iterable[tuple[Tensor, Tensor | None]]:
        for batch in range(BATCHES):
            latents = truncation * torch.randn(BATCH_SIZE, generator.config.latent_dim, generator=random)
            yield latents, labels_from_seeds(generator, range(batch * BATCH_SIZE, (batch + 1) * BATCH_SIZE))

    measure_batch_statistics(generator, batches())
    return generator.to(dtype)
