"""Attention over positions, exact, with memory that grows linearly with them, by whichever way is the fastest."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fagan_hf.layers.chunked_attention import chunked_attention
from fagan_hf.layers.setting import Setting

Kernel = Literal["fused", "chunked"]
"""Ways to compute attention: torch's fused kernels, or `chunked_attention`, which can be differentiated twice."""

# From where on ours is faster than torch's on a CPU. Torch's computes query and key at the value's size, for the zeros
# that are added; ours does not, but goes over the weights more often. benchmarks/speed.py compares them.
_LARGE_HEAD = 48
_FEW_POSITIONS = 256

_forced: Setting[Kernel | None] = Setting("forced_attention_kernel", default=None)


@contextmanager
def attention_kernel(kernel: str) -> Iterator[None]:
    """Let `attention` be computed one way, whatever `choose_kernel` would choose, in this block and thread.

    Args:
        kernel: ``"fused"`` or ``"chunked"``; the innermost block decides.

    Raises:
        ValueError: There is no such kernel.
    """
    if kernel not in get_args(Kernel):
        raise ValueError(f"kernel is {kernel!r}; it must be one of {', '.join(get_args(Kernel))}")
    with _forced.holding(cast(Kernel, kernel)):
        yield


def twice_differentiable() -> AbstractContextManager[None]:
    """Let `attention` be differentiated twice: what is computed in this context has a second derivative.

    No fused kernel has a double backward, so a gradient penalty, which trains on a gradient, cannot use them. The
    chunked way has one, and memory stays linear in positions in the first and second backward pass as well. It holds in
    the thread that entered it only; the backward passes may run anywhere.
    """
    return attention_kernel("chunked")


@dataclass(frozen=True)
class KernelChoice:
    """How attention of some shape is computed.

    Attributes:
        kernel: The way.
        key_size: Channels of a head's query and key as the kernel gets them, with the zeros that are added.
        value_size: The same of the value.
    """

    kernel: Kernel
    key_size: int
    value_size: int


def choose_kernel(
    device: torch.device, dtype: torch.dtype, positions: int, key_size: int, value_size: int
) -> KernelChoice:
    """Say how `attention` computes something here, forced or by choice.

    The fused kernels don't take everything. Torch would fall back, in silence, to a path that holds all N x N weights:
    on CPUs for unequal head sizes, on CUDA for sizes that fill no 16 bytes. So zeros are added, which change no result.

    Args:
        device: Where the tensors are.
        dtype: Of the tensors as they come, under autocast its.
        positions: Keys, over which the softmax goes.
        key_size: Channels of query and key in each head.
        value_size: Channels of the value in each head.
    """

    def fused(multiple: int, *, is_equal: bool) -> KernelChoice:
        sizes = [math.ceil(size / multiple) * multiple for size in (key_size, value_size)]
        return KernelChoice("fused", *([max(sizes)] * 2 if is_equal else sizes))

    chunked = KernelChoice("chunked", key_size, value_size)
    if _forced.get() == "chunked":
        return chunked
    is_half = dtype in (torch.bfloat16, torch.float16)
    largest = max(key_size, value_size)
    is_wished = _forced.get() == "fused" or torch.compiler.is_compiling()  # a compiler would unroll our loop
    if device.type == "cuda":
        # Flash attention is for half precision and sizes up to 256; the memory-efficient kernel takes the others, but
        # no double precision.
        choice = fused(8, is_equal=largest <= 256) if is_half else fused(4, is_equal=False)
        has_kernel = dtype != torch.float64
    else:
        choice = fused(16, is_equal=True)
        # Elsewhere than on a CPU nobody has looked whether torch's kernels are linear in memory.
        has_kernel = device.type == "cpu" and (is_half or (positions > _FEW_POSITIONS and largest < _LARGE_HEAD))
    return choice if has_kernel or is_wished else chunked


def attention(
    query: Float[Tensor, "batch key_channels *positions"],
    key: Float[Tensor, "batch key_channels *key_positions"],
    value: Float[Tensor, "batch channels *key_positions"],
    heads: int = 1,
) -> Float[Tensor, "batch channels *positions"]:
    """Give each position the mean of all values, weighted by ``softmax(query . key)`` over the keys.

    There is no ``1/sqrt(d)``: neither SAGAN nor FAGAN scales. The weights of all queries are never held at once,
    whichever kernel `choose_kernel` takes. Not every one has a second derivative; `twice_differentiable` is for where
    one is needed. The weights themselves are given by `fagan_hf.attention_maps.capture.capture_attention`.

    Args:
        query: Feature maps, any number of position dimensions (height and width, or one).
        key: As many channels; fewer positions where keys and values were pooled.
        value: The key's positions, its own number of channels.
        heads: Number of groups of channels that attend on their own.

    Returns:
        The value's channels at the query's positions.

    Reference:
        SAGAN, arXiv:1805.08318, equations 1 and 2.
    """
    # [batch, heads, channels, positions]
    query_heads, key_heads, value_heads = (each.flatten(2).unflatten(1, (heads, -1)) for each in (query, key, value))
    key_size, positions = key_heads.shape[2:]
    choice = choose_kernel(value.device, value.dtype, positions, key_size, value_heads.shape[2])
    if choice.kernel == "chunked":
        mixed = chunked_attention(*(each.flatten(0, 1) for each in (query_heads, key_heads, value_heads)))
        mixed = mixed.unflatten(0, (len(value), heads))
    else:
        mixed = _fused_attention(query_heads, key_heads, value_heads, choice)
    return mixed.flatten(1, 2).unflatten(2, query.shape[2:])


def _fused_attention(
    query: Float[Tensor, "batch heads key_size positions"],
    key: Float[Tensor, "batch heads key_size keys"],
    value: Float[Tensor, "batch heads value_size keys"],
    choice: KernelChoice,
) -> Float[Tensor, "batch heads value_size positions"]:
    """Attend by torch's fused kernels, which want channels last."""

    def padded(tensor: Tensor, size: int) -> Tensor:
        # A transposed view would send torch to its slow path, with N x N weights; on CUDA one that is not aligned.
        return functional.pad(tensor.mT, (0, size - tensor.shape[2])).contiguous()

    inputs = padded(query, choice.key_size), padded(key, choice.key_size), padded(value, choice.value_size)
    mixed = functional.scaled_dot_product_attention(*inputs, scale=1.0)
    return mixed[..., : value.shape[2]].mT
