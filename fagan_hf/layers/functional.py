"""Exact attention over positions, with memory linear in their number, by the fastest available kernel."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from fagan_hf.layers.chunked_attention import chunked_attention
from fagan_hf.layers.execution import is_transformed, no_autocast
from fagan_hf.layers.setting import Setting

Kernel = Literal["fused", "chunked", "unpadded"]
"""Kernels of attention: torch's fused ones, or `chunked_attention`, which is twice differentiable. Unpadded is a single
operation of torch without the zeros that its fused kernels need: for exporters that replace it by their own."""

# From this size on, our kernel is faster than torch's on a CPU. Torch's computes query and key at the value's size,
# because of the zero padding; ours does not, but makes more passes over the weights. benchmarks/speed.py compares them.
_LARGE_HEAD = 48
_FEW_POSITIONS = 256

_forced: Setting[Kernel | None] = Setting("forced_attention_kernel", default=None)


@contextmanager
def attention_kernel(kernel: str) -> Iterator[None]:
    """Force the kernel of `attention`, whatever `choose_kernel` would choose, inside this block and thread.

    Args:
        kernel: ``"fused"``, ``"chunked"`` or ``"unpadded"``; the innermost block takes precedence.

    Raises:
        ValueError: There is no such kernel.
    """
    if kernel not in get_args(Kernel):
        raise ValueError(f"kernel is {kernel!r}; it must be one of {', '.join(get_args(Kernel))}")
    with _forced.holding(cast(Kernel, kernel)):
        yield


def twice_differentiable() -> AbstractContextManager[None]:
    """Make `attention` twice differentiable inside this context.

    No fused kernel has a double backward, so a gradient penalty, which trains on a gradient, can't use them. The
    chunked kernel has one, and memory stays linear in positions in the first and second backward pass as well. The
    context applies only to the thread that entered it; the backward passes may run anywhere.
    """
    return attention_kernel("chunked")


@dataclass(frozen=True)
class KernelChoice:
    """How attention of a given shape is computed.

    Attributes:
        kernel: The kernel.
        key_size: Channels of a head's query and key in the kernel, including zero padding.
        value_size: Channels of a head's value in the kernel, including zero padding.
    """

    kernel: Kernel
    key_size: int
    value_size: int


def choose_kernel(
    device: torch.device, dtype: torch.dtype, positions: int, key_size: int, value_size: int
) -> KernelChoice:
    """Choose how `attention` is computed here, unless it is forced.

    The fused kernels don't support everything. Torch would silently fall back to a path that holds all N x N weights:
    on CPUs for unequal head sizes, on CUDA for sizes that are not multiples of 16 bytes. So zeros are padded, which
    don't change the result.

    Args:
        device: Device of the tensors.
        dtype: Dtype of the tensors, or of autocast if enabled.
        positions: Number of keys, over which the softmax is taken.
        key_size: Channels of query and key in each head.
        value_size: Channels of the value in each head.
    """
    sizes = key_size, value_size
    chunked = KernelChoice("chunked", *sizes)
    if _forced.get() == "chunked":
        return chunked
    if _forced.get() == "unpadded":
        return KernelChoice("fused", *sizes)
    is_half = dtype in (torch.bfloat16, torch.float16)
    largest = max(sizes)
    is_requested = _forced.get() == "fused" or torch.compiler.is_compiling()  # compilers would unroll our loop
    if device.type == "cuda":
        # Flash attention supports half precision and sizes up to 256; the memory-efficient kernel supports the others,
        # except double precision.
        choice = _fused(sizes, 8, is_equal=largest <= 256) if is_half else _fused(sizes, 4, is_equal=False)
        has_kernel = dtype != torch.float64
    else:
        choice = _fused(sizes, 16, is_equal=True)
        # On devices other than CPU and CUDA it is untested whether torch's kernels are linear in memory.
        has_kernel = device.type == "cpu" and (is_half or (positions > _FEW_POSITIONS and largest < _LARGE_HEAD))
    return choice if has_kernel or is_requested else chunked


def _fused(sizes: tuple[int, int], multiple: int, *, is_equal: bool) -> KernelChoice:
    """Choose the fused kernel, with the sizes of key and value rounded up to a multiple."""
    rounded = [math.ceil(size / multiple) * multiple for size in sizes]
    return KernelChoice("fused", *([max(rounded)] * 2 if is_equal else rounded))


def attention(
    query: Float[Tensor, "batch key_channels *positions"],
    key: Float[Tensor, "batch key_channels *key_positions"],
    value: Float[Tensor, "batch channels *key_positions"],
    heads: int = 1,
) -> Float[Tensor, "batch channels *positions"]:
    """Return for each position the mean of all values, weighted by ``softmax(query . key)`` over the keys.

    There is no ``1/sqrt(d)``: neither SAGAN nor FAGAN scales. The weights of all queries are never held at once,
    whichever kernel `choose_kernel` chooses. Not every kernel has a second derivative; use `twice_differentiable` where
    one is needed. `attention_weights` returns the weights of some queries.

    Under a transform of `torch.func` the formula is computed directly, which has derivatives of any order and mode but
    holds the weights of all queries: no kernel supports all transforms.

    Args:
        query: Feature maps, any number of position dimensions (height and width, or one).
        key: As many channels; fewer positions if keys and values are pooled.
        value: As many positions as the key; any number of channels.
        heads: Number of attention heads.

    Returns:
        The value's channels at the query's positions.

    Reference:
        SAGAN, arXiv:1805.08318, equations 1 and 2.
    """
    # [batch, heads, channels, positions]
    query_heads, key_heads, value_heads = (each.flatten(2).unflatten(1, (heads, -1)) for each in (query, key, value))
    if is_transformed():
        mixed = _plain_attention(query_heads, key_heads, value_heads)
        return mixed.flatten(1, 2).unflatten(2, query.shape[2:])
    key_size, positions = key_heads.shape[2:]
    choice = choose_kernel(value.device, value.dtype, positions, key_size, value_heads.shape[2])
    if choice.kernel == "chunked":
        mixed = chunked_attention(*(each.flatten(0, 1) for each in (query_heads, key_heads, value_heads)))
        mixed = mixed.unflatten(0, (len(value), heads))
    else:
        mixed = _fused_attention(query_heads, key_heads, value_heads, choice)
    return mixed.flatten(1, 2).unflatten(2, query.shape[2:])


def attention_weights(
    query: Float[Tensor, "batch key_channels *positions"],
    key: Float[Tensor, "batch key_channels *key_positions"],
    queries: Int[Tensor, " queries"],
    heads: int = 1,
) -> Float[Tensor, "batch heads queries keys"]:
    """Return the weights by which `attention` averages the values, for some of its queries.

    Args:
        query: As in `attention`.
        key: As in `attention`.
        queries: Indices of positions, row by row; only their weights are computed.
        heads: Number of attention heads.

    Returns:
        ``softmax(query . key)`` over the keys, row by row: in single precision at least, even under autocast.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    with no_autocast(query.device):
        chosen, keys = (
            each.to(dtype).unflatten(1, (heads, -1)).mT.contiguous()
            for each in (query.flatten(2)[..., queries], key.flatten(2))
        )
        return (chosen @ keys.mT).softmax(-1)


def _plain_attention(
    query: Float[Tensor, "batch heads key_size positions"],
    key: Float[Tensor, "batch heads key_size keys"],
    value: Float[Tensor, "batch heads value_size keys"],
) -> Float[Tensor, "batch heads value_size positions"]:
    """Compute attention by its formula, in single precision at least, as the kernels do."""
    dtype = torch.promote_types(value.dtype, torch.float32)
    with no_autocast(query.device):
        weights = (query.to(dtype).mT @ key.to(dtype)).softmax(-1)
        return (value.to(dtype) @ weights.mT).to(value.dtype)


def _fused_attention(
    query: Float[Tensor, "batch heads key_size positions"],
    key: Float[Tensor, "batch heads key_size keys"],
    value: Float[Tensor, "batch heads value_size keys"],
    choice: KernelChoice,
) -> Float[Tensor, "batch heads value_size positions"]:
    """Compute attention with torch's fused kernels, which expect channels last."""
    inputs = _padded(query, choice.key_size), _padded(key, choice.key_size), _padded(value, choice.value_size)
    mixed = functional.scaled_dot_product_attention(*inputs, scale=1.0)
    return mixed[..., : value.shape[2]].mT


def _padded(tensor: Tensor, size: int) -> Tensor:
    # With a transposed view torch would use its slow path, with N x N weights; on CUDA with an unaligned one.
    return functional.pad(tensor.mT, (0, size - tensor.shape[2])).contiguous()
