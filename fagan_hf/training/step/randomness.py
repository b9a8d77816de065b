"""Randomness as a function of the seed and the images seen.

Nothing random is carried from step to step: the draws of a step depend on the run's seed, on how many images came
before, and on what they are for. So a resumed run needs no saved generators, and any number of processes can draw for
the whole batch and keep their own part.
"""

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

# A stream for each purpose, so that drawing more of one changes no other.
STREAMS = ("order", "flip", "real_augment", "discriminator_latents", "fake_augment", "generator_latents")
STREAMS += ("generator_real_augment", "generator_fake_augment", "initial_weights", "statistics")
STREAMS += ("wrong_labels", "penalty_mix", "real_noise", "fake_noise", "statistics_labels", "dropout")


def random_stream(seed: int, stream: str, index: int = 0, attempt: int = 0) -> torch.Generator:
    """Make the CPU generator of one purpose at one point of a run.

    Args:
        seed: The run's.
        stream: One of `STREAMS`.
        index: Images seen, or the epoch for ``"order"``.
        attempt: How often the run has gone back to try this point with other draws.
    """
    return torch.Generator().manual_seed(random_seed(seed, stream, index, attempt))


def random_seed(seed: int, stream: str, index: int = 0, attempt: int = 0) -> int:
    """Give the seed of `random_stream`, for generators that can't be passed: torch's own, which dropout draws from."""
    entropy = [seed, STREAMS.index(stream), index, *([attempt] if attempt else [])]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])


def data_order(seed: int, start: int, count: int, dataset_size: int, attempt: int = 0) -> Int64[np.ndarray, " count"]:
    """Say which images come at ``start`` [images seen]: each epoch goes through all of them in an order of its own.

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
    """Remember the last epochs' orders: a data set of 200,000 images takes milliseconds to shuffle."""
    key = (seed, epoch, size, attempt)
    if key not in _permutations:
        if len(_permutations) >= 2:
            _permutations.pop(next(iter(_permutations)))
        _permutations[key] = torch.randperm(size, generator=random_stream(seed, "order", epoch, attempt)).numpy()
    return _permutations[key]


def draw_latents(random: torch.Generator, count: int, latent_dim: int) -> Float[Tensor, "count latent_dim"]:
    """Draw standard normal latents on the CPU."""
    return torch.randn(count, latent_dim, generator=random)
