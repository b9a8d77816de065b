"""Attention over positions, exact, with memory that grows linearly with them."""

import math

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

HEAD_SIZE_STEP = 16


def attention(
    query: Float[Tensor, "batch key_channels *positions"],
    key: Float[Tensor, "batch key_channels *positions"],
    value: Float[Tensor, "batch channels *positions"],
    heads: int = 1,
) -> Float[Tensor, "batch channels *positions"]:
    """Give each position the mean of all values, weighted by ``softmax(query . key)`` over the keys.

    There is no ``1/sqrt(d)``: neither SAGAN nor FAGAN scales. The N x N weights are never held: torch's fused kernels
    go over them in tiles. On CPU the fused kernel is taken only if query, key and value have equal head sizes, and is
    fastest if that is a multiple of its vectors' length; zeros added to the shorter ones change no result, so that is
    what we do.

    Args:
        query: Feature maps, any number of position dimensions (height and width, or one).
        key: The same shape.
        value: The same positions, its own number of channels.
        heads: Number of groups of channels that attend on their own.

    Returns:
        The shape of ``value``.

    Reference:
        SAGAN, arXiv:1805.08318, equations 1 and 2.
    """
    key_size, value_size = query.shape[1] // heads, value.shape[1] // heads
    size = math.ceil(max(key_size, value_size) / HEAD_SIZE_STEP) * HEAD_SIZE_STEP

    def heads_last(feature_map: Tensor) -> Tensor:
        split = feature_map.flatten(2).unflatten(1, (heads, -1)).mT  # (B, heads, positions, channels)
        # A transposed view would send torch to its slow path, with N x N weights.
        return functional.pad(split, (0, size - split.shape[-1])).contiguous()

    mixed = functional.scaled_dot_product_attention(heads_last(query), heads_last(key), heads_last(value), scale=1.0)
    return mixed[..., :value_size].mT.flatten(1, 2).unflatten(2, value.shape[2:])
