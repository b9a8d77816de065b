"""Distance and entropy of attention."""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fagan_hf.attention_maps.observe import ObservedAttention
from fagan_hf.attention_maps.positions import Position

WEIGHTS_PER_CHUNK = 2**20
"""Attention weights that `attention_statistics` holds at a time, in several tensors; 4 MB each."""


class AttentionStatistics(NamedTuple):
    """Means over all queries, heads and images.

    Attributes:
        distance: Distance between query and keys, weighted by attention [query positions].
        entropy: Entropy of a query's weights, divided by its maximum, log N for N keys: 1 is uniform, 0 a single key.
    """

    distance: float
    entropy: float


@torch.no_grad()
def attention_statistics(seen: ObservedAttention) -> AttentionStatistics:
    """Compute mean distance and entropy of attention, with memory linear in the number of positions.

    Args:
        seen: From `observe_attention`. If it has fewer keys than queries, each represents a square.

    Raises:
        ValueError: The layer's weights are not those by which it attends, or don't sum to 1.

    Reference:
        Mean attention distance: Dosovitskiy et al., An Image is Worth 16x16 Words, arXiv:2010.11929, figure 7.
    """
    (rows, columns), (key_rows, key_columns) = (_centers(each, seen.query) for each in (seen.query, seen.key))
    distance = torch.zeros((), dtype=torch.float64)
    entropy = torch.zeros((), dtype=torch.float64)
    keys = len(key_rows)
    maps = len(seen.query) * seen.layer.heads
    for queries in torch.arange(len(rows), device=rows.device).split(max(1, WEIGHTS_PER_CHUNK // (maps * keys))):
        distances = torch.hypot(rows[queries, None] - key_rows, columns[queries, None] - key_columns)
        weights = seen.weights(queries)
        # Rows on the device, the rest on the CPU: Apple's GPUs have no doubles.
        distance += (weights * distances).sum(-1).cpu().sum(dtype=torch.float64)
        entropy += torch.special.entr(weights).sum(-1).cpu().sum(dtype=torch.float64)
    count = maps * len(rows)
    # With a single key the entropy is 0, as is the log that it would be divided by.
    return AttentionStatistics(float(distance) / count, float(entropy) / count / (math.log(keys) or 1.0))


def _centers(feature_map: Tensor, grid: Tensor) -> tuple[Float[Tensor, " positions"], Float[Tensor, " positions"]]:
    """Return the rows and columns of a map's positions on the grid of another map of an image [grid positions]."""
    rows, columns = (
        (torch.arange(size, device=grid.device) + 0.5) * (whole / size)
        for size, whole in zip(feature_map.shape[2:], grid.shape[2:], strict=True)
    )
    return rows.repeat_interleave(len(columns)), columns.repeat(len(rows))


def uniform_distance(queries: Position, keys: Position) -> float:
    """Return the mean attention distance of uniform attention [query positions].

    Args:
        queries: Height and width of the query's map [positions].
        keys: Height and width of the key's map [positions].
    """
    # Squared differences of rows and of columns by query and key; the mean is over all pairs of the two.
    rows, columns = (
        np.subtract.outer((np.arange(queries[axis]) + 0.5), (np.arange(keys[axis]) + 0.5) * queries[axis] / keys[axis])
        for axis in range(2)
    )
    row_steps, row_counts = np.unique(abs(rows), return_counts=True)
    column_steps, column_counts = np.unique(abs(columns), return_counts=True)
    distances = np.hypot(row_steps[:, None], column_steps)
    return float((distances * row_counts[:, None] * column_counts).sum() / (rows.size * columns.size))
