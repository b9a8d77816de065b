"""Distance and entropy of attention."""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fagan_hf.attention_maps.positions import Position, heads_last

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
def attention_statistics(
    query: Float[Tensor, "batch key_channels height width"],
    key: Float[Tensor, "batch key_channels rows columns"],
    heads: int = 1,
) -> AttentionStatistics:
    """Compute mean distance and entropy of attention, with memory linear in the number of positions.

    Args:
        query: A layer's query, from `AttentionLayer.query_and_key`.
        key: The layer's key; if it has fewer positions, each represents a square.
        heads: Number of attention heads.

    Reference:
        Mean attention distance: Dosovitskiy et al., An Image is Worth 16x16 Words, arXiv:2010.11929, figure 7.
    """
    (rows, columns), (key_rows, key_columns) = (_centers(each, query) for each in (query, key))
    distance = torch.zeros((), dtype=torch.float64)
    entropy = torch.zeros((), dtype=torch.float64)
    with torch.autocast(query.device.type, enabled=False):
        queries, keys = heads_last(query, heads), heads_last(key, heads)
        rows_at_a_time = max(1, WEIGHTS_PER_CHUNK // keys.shape[:-1].numel())
        split = [each.split(rows_at_a_time, dim=-1) for each in (rows, columns)]
        for chunk, row, column in zip(queries.split(rows_at_a_time, dim=2), *split, strict=True):
            distances = torch.hypot(row[:, None] - key_rows, column[:, None] - key_columns)
            log_weights = (chunk @ keys.mT).log_softmax(-1)
            weights = log_weights.exp()
            # Rows on the device, the rest on the CPU: Apple's GPUs have no doubles.
            distance += (weights * distances).sum(-1).cpu().sum(dtype=torch.float64)
            entropy -= (weights * log_weights).sum(-1).cpu().sum(dtype=torch.float64)
    count = queries.shape[:-1].numel()
    # With a single key the entropy is 0, as is the log that it would be divided by.
    return AttentionStatistics(float(distance) / count, float(entropy) / count / (math.log(keys.shape[2]) or 1.0))


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
