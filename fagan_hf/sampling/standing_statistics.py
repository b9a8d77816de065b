"""Batch-norm statistics measured for what a generator is about to be fed."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fagan_hf.models import Generator
from fagan_hf.sampling.images import labels_from_seeds

BATCHES = 16
BATCH_SIZE = 64
_SEED = 20_181_205  # any would do; always the same, so that a seed stays a picture


def has_batch_statistics(generator: nn.Module) -> bool:
    """Is there a batch norm in it?"""
    return any(isinstance(module, nn.BatchNorm2d) for module in generator.modules())


@torch.no_grad()
def measure_batch_statistics(generator: Generator, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
    """Replace a generator's batch-norm statistics by plain means over batches; it is left in eval mode.

    Args:
        generator: Changed in place; without batch norm nothing happens.
        batches: Latents and labels, as its forward takes them, on any device.
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
    """Give a generator whose batch-norm statistics fit truncated latents.

    Statistics that were measured for latents of length 1 are wrong for shorter ones: activations come out too small and
    pictures pale. BigGAN calls statistics measured for the latents at hand standing statistics.

    Args:
        generator: In eval mode; stays as it is.
        truncation: What the latents will be multiplied with.

    Returns:
        A copy, or the generator itself where nothing is to be measured: no batch norm, or a truncation of 1.

    Reference:
        Brock et al., BigGAN, arXiv:1809.11096, section 3.1.
    """
    if truncation == 1.0 or not has_batch_statistics(generator):
        return generator
    dtype = generator.dtype
    generator = copy.deepcopy(generator).float()  # half precision would measure too coarsely
    random = torch.Generator().manual_seed(_SEED)

    def batches() -> Iterable[tuple[Tensor, Tensor | None]]:
        for batch in range(BATCHES):
            latents = truncation * torch.randn(BATCH_SIZE, generator.config.latent_dim, generator=random)
            yield latents, labels_from_seeds(generator, range(batch * BATCH_SIZE, (batch + 1) * BATCH_SIZE))

    measure_batch_statistics(generator, batches())
    return generator.to(dtype)
