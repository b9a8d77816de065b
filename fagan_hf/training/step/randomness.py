"""Randomness as a function of the seed and the images seen.

No random state is carried from step to step: a step's random numbers depend on the run's seed, the images seen, and
their purpose. So a resumed run needs no saved generators, and each of any number of processes can sample for the whole
batch and keep its own part.
"""

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

# One stream per purpose, so that sampling more from one does not change the others.
STREAMS = ("order", "flip", "real_augment", "discriminator_latents", "fake_augment", "generator_latents")
STREAMS += ("generator_real_augment", "generator_fake_augment", "initial_weights", "statistics")
STREAMS += ("wrong_labels", "penalty_mix", "real_noise", "fake_noise", "statistics_labels", "dropout")


def random_stream(seed: int, stream: str, index: int = 0, attempt: int = 0) -> torch.Generator:
    """Create the CPU generator for one purpose at one point of a run.

    Args:
        seed: Seed of the run.
        stream: One of `STREAMS`.
        index: Images seen, or the epoch for ``"order"``.
        attempt: Number of rollbacks, after each of which other random numbers are used.
    """
    return torch.Generator().manual_seed(random_seed(seed, stream, index, attempt))


def random_seed(seed: int, stream: str, index: int = 0, attempt: int = 0) -> int:
    """Return the seed of `random_stream`, for generators that can't be passed: torch's global one, used by dropout."""
    entropy = [seed, STREAMS.index(stream), index, *([attempt] if attempt else [])]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])


def data_order(seed: int, start: int, count: int, dataset_size: int, attempt: int = 0) -> Int64[np.ndarray, " count"]:
    """Return the indices of the images from ``start`` [images seen] on; each epoch has a different order.

    Returns:
        Indices of ``count`` images; a batch may reach into the next epoch.
    """
    indices = []
    while count > 0:
        epoch, offset = divmod(start, dataset_size)
        order = _permutation(seed, epoch, dataset_size, attempt)
        indices.append(order[offset : offset + count])
        start, count = start + len(indices[-1]), count - len(indices[-1])
    return np.concatenate(indices)


_permutations: dict[tuple[int, int, int, int], np.ndarray] = {}


def _permutation(seed: int, epoch: int, size: int, attempt: int) -> np.ndarray:
    """Return an epoch's order, cached for the last epochs: shuffling 200,000 images takes milliseconds."""
    key = (seed, epoch, size, attempt)
    if key not in _permutations:
        if len(_permutations) >= 2:
            _permutations.pop(next(iter(_permutations)))
        _permutations[key] = torch.randperm(size, generator=random_stream(seed, "order", epoch, attempt)).numpy()
    return _permutations[key]


def draw_latents(random: torch.Generator, count: int, latent_dim: int) -> Float[Tensor, "count latent_dim"]:
    """Sample standard normal latents on the CPU."""
    return torch.randn(count, latent_dim, generator=random)
