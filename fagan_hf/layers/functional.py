"""Attention over positions, exact, with memory that grows linearly with them."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from fagan_hf.layers.setting import Setting

HEAD_SIZE_STEP = 16
WEIGHTS_PER_CHUNK = 2**20
"""Attention weights held at a time in `twice_differentiable` mode, over batch and heads; a row is never divided."""

_is_twice_differentiable = Setting("is_twice_differentiable", default=False)


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Let `attention` be differentiated twice: what is computed in this context has a second derivative.

    No fused kernel has a double backward, so a gradient penalty, which trains on a gradient, cannot use them. This
    mode gives the same numbers in chunks of queries, and memory stays linear in positions, in the first and second
    backward pass as well. It is slower: wrap the forward pass of a gradient penalty in it and nothing else. It holds
    in the thread that entered it only; the backward passes may run anywhere.
    """
    with _is_twice_differentiable.holding(True):
        yield


def attention(
    query: Float[Tensor, "batch key_channels *positions"],
    key: Float[Tensor, "batch key_channels *positions"],
    value: Float[Tensor, "batch channels *positions"],
    heads: int = 1,
) -> Float[Tensor, "batch channels *positions"]:
    """Give each position the mean of all values, weighted by ``softmax(query . key)`` over the keys.

    There is no ``1/sqrt(d)``: neither SAGAN nor FAGAN scales. The N x N weights are never held: torch's fused kernels
    go over them in tiles. They have no second derivative; `twice_differentiable` is for where one is needed.

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

    def heads_last(feature_map: Tensor) -> Tensor:
        return feature_map.flatten(2).unflatten(1, (heads, -1)).mT  # (B, heads, positions, channels)

    mix = _chunked_attention if _is_twice_differentiable.get() else _fused_attention
    mixed = mix(heads_last(query), heads_last(key), heads_last(value))
    return mixed.mT.flatten(1, 2).unflatten(2, value.shape[2:])


def _fused_attention(
    query: Float[Tensor, "batch heads positions key_size"],
    key: Float[Tensor, "batch heads positions key_size"],
    value: Float[Tensor, "batch heads positions value_size"],
) -> Float[Tensor, "batch heads positions value_size"]:
    """Attend by torch's fused kernels.

    On CPU the fused kernel is taken only if query, key and value have equal head sizes, and is fastest if that is a
    multiple of its vectors' length; zeros added to the shorter ones change no result, so that is what we do.
    """
    value_size = value.shape[-1]
    size = math.ceil(max(key.shape[-1], value_size) / HEAD_SIZE_STEP) * HEAD_SIZE_STEP

    def padded(tensor: Tensor) -> Tensor:
        # A transposed view would send torch to its slow path, with N x N weights.
        return functional.pad(tensor, (0, size - tensor.shape[-1])).contiguous()

    mixed = functional.scaled_dot_product_attention(padded(query), padded(key), padded(value), scale=1.0)
    return mixed[..., :value_size]


def _chunked_attention(
    query: Float[Tensor, "batch heads positions key_size"],
    key: Float[Tensor, "batch heads positions key_size"],
    value: Float[Tensor, "batch heads positions value_size"],
) -> Float[Tensor, "batch heads positions value_size"]:
    """Attend chunk by chunk, twice differentiable; half precision is computed in single, as the fused kernels do."""
    dtype = torch.promote_types(value.dtype, torch.float32)
    # Contiguous once, for else each chunk would copy all keys and values.
    tensors = [tensor.to(dtype).contiguous() for tensor in (query, key, value)]
    return _ChunkedAttention.apply(*tensors).to(value.dtype)


class _ChunkedAttention(torch.autograd.Function):
    """Attention by chunks of queries, which keeps its three inputs only."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value)
        output = torch.empty_like(value)
        with torch.autocast(query.device.type, enabled=False):
            for query_chunk, output_chunk in _chunks(query, output):
                output_chunk.copy_((query_chunk @ key.mT).softmax(-1) @ value)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _ChunkedGradients.apply(*ctx.saved_tensors, *gradients)


class _ChunkedGradients(torch.autograd.Function):
    """The backward pass of `_ChunkedAttention`, which keeps its four inputs only and has a backward pass itself.

    Results are written into tensors made beforehand: a small one kept from each chunk would split the memory that the
    chunk gave back, and the next chunk could not use it again. (For that reason no `torch.utils.checkpoint` either.)
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(query, key, value, gradient)
        for_query, for_key, for_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        with torch.autocast(query.device.type, enabled=False):
            for query_chunk, gradient_chunk, for_query_chunk in _chunks(query, gradient, for_query):
                parts = _chunk_gradients(query_chunk, key, value, gradient_chunk)
                for_query_chunk.copy_(parts[0])
                for_key += parts[1]
                for_value += parts[2]
        return for_query, for_key, for_value

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]: the decorator hides the names
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        query, key, value, gradient = ctx.saved_tensors
        of_query, of_key, of_value = gradients
        for_query, for_gradient = torch.empty_like(query), torch.empty_like(gradient)
        for_key, for_value = torch.zeros_like(key), torch.zeros_like(value)
        with torch.autocast(query.device.type, enabled=False):
            for query_chunk, gradient_chunk, of_query_chunk, for_query_chunk, for_gradient_chunk in _chunks(
                query, gradient, of_query, for_query, for_gradient
            ):
                parts = _chunk_second_gradients(
                    (query_chunk, key, value, gradient_chunk), (of_query_chunk, of_key, of_value)
                )
                for_query_chunk.copy_(parts[0])
                for_key += parts[1]
                for_value += parts[2]
                for_gradient_chunk.copy_(parts[3])
        return for_query, for_key, for_value, for_gradient


def _chunks(query: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Give slices of tensors that have one row for each query, as many rows at a time as the weights allow."""
    size = max(1, WEIGHTS_PER_CHUNK // query.shape[:-1].numel())
    return zip(*(tensor.split(size, dim=-2) for tensor in (query, *others)), strict=True)


def _chunk_gradients(
    query: Float[Tensor, "batch heads chunk key_size"],
    key: Float[Tensor, "batch heads positions key_size"],
    value: Float[Tensor, "batch heads positions value_size"],
    gradient: Float[Tensor, "batch heads chunk value_size"],
) -> tuple[
    Float[Tensor, "batch heads chunk key_size"],
    Float[Tensor, "batch heads positions key_size"],
    Float[Tensor, "batch heads positions value_size"],
]:
    """Give what some queries' output gradient passes on to these queries, all keys and all values."""
    weights = (query @ key.mT).softmax(-1)
    weights_gradient = gradient @ value.mT
    scores_gradient = weights * (weights_gradient - (weights_gradient * weights).sum(-1, keepdim=True))
    return scores_gradient @ key, scores_gradient.mT @ query, weights.mT @ gradient


def _chunk_second_gradients(inputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Give what the gradients of the three results of `_chunk_gradients` pass on to its four inputs."""
    inputs = tuple(tensor.detach().requires_grad_() for tensor in inputs)
    with torch.enable_grad():
        outputs = _chunk_gradients(*inputs)
    return torch.autograd.grad(outputs, inputs, gradients)
