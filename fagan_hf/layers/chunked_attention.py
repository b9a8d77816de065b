"""Attention in chunks of queries, in plain torch operations: exact, linear in memory, and twice differentiable.

Feature maps keep their memory layout here, ``[groups, channels, positions]``, a group being one head of one image.
Query and key have few channels, and such thin products are several times faster when positions are contiguous.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from fagan_hf.layers.execution import no_autocast

WEIGHTS_PER_CORE = 2**19
"""Attention weights that a CPU core processes at a time, 2 MB: they stay in its caches between passes."""
WEIGHTS_PER_KERNEL = 2**24
"""Attention weights that an accelerator processes at a time, 64 MB: it prefers few and large kernels."""


def chunked_attention(
    query: Float[Tensor, "groups key_channels queries"],
    key: Float[Tensor, "groups key_channels keys"],
    value: Float[Tensor, "groups channels keys"],
) -> Float[Tensor, "groups channels queries"]:
    """Return for each query the mean of all values, weighted by ``softmax(query . key)`` over the keys.

    If all weights fit into one chunk the formula is computed directly; otherwise a chunk holds all weights of some
    queries. The backward pass recomputes them. It is differentiable once more, but no further. Half precision is
    computed in single precision, as in the fused kernels.
    """
    dtype = torch.promote_types(value.dtype, torch.float32)
    with no_autocast(query.device):
        inputs = query.to(dtype).contiguous(), key.to(dtype).contiguous(), value.to(dtype)
        return _Attention.apply(*inputs).to(value.dtype)  # pyright: ignore[reportAttributeAccessIssue]


class _Attention(torch.autograd.Function):
    """Saves inputs and output for the backward pass, but not the weights."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        is_channels_last = value.mT.is_contiguous()
        groups, channels, queries = len(value), value.shape[1], query.shape[2]
        output = (
            value.new_empty(groups, queries, channels).mT
            if is_channels_last
            else value.new_empty(groups, channels, queries)
        )
        scratch = _Scratch(query, key, buffers=1)
        for groups, rows in scratch.chunks:
            [weights] = scratch.take(groups, rows)
            _weigh(query[groups, :, rows], key[groups], weights)
            if is_channels_last:  # otherwise the result would be transposed when it is written
                output.mT[groups, rows] = weights @ value[groups].mT
            else:
                output[groups, :, rows] = value[groups] @ weights.mT
        ctx.save_for_backward(query, key, value, output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, output = ctx.saved_tensors
        # The output depends on the other three, so a second derivative must not treat it as an independent input.
        return _AttentionGradients.apply(query, key, value, *gradients, output.detach())


class _AttentionGradients(torch.autograd.Function):
    """The backward pass of `_Attention`, itself with a backward pass.

    Results are written into preallocated tensors: keeping a small tensor from each chunk would fragment the memory that
    the chunk freed, so the next chunk could not reuse it. (`torch.utils.checkpoint` has the same problem.)
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, gradient: Tensor, output: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(query, key, value, gradient)
        for_query, for_key, for_value = (_like(tensor) for tensor in (query, key, value))
        scratch = _Scratch(query, key, buffers=2)
        with no_autocast(query.device):
            for groups, rows in scratch.chunks:
                weights, scores = scratch.take(groups, rows)  # the gradient of the latter
                chunk_query, chunk_gradient = query[groups, :, rows], gradient[groups, :, rows]
                _weigh(chunk_query, key[groups], weights)
                torch.bmm(chunk_gradient.mT, value[groups], out=scores)  # first the gradient of the weights
                beta = min(rows.start, 1)  # 0 starts a sum, ignoring the memory's content
                for_value[groups].baddbmm_(chunk_gradient, weights, beta=beta)
                # Through the softmax: each row's weighted mean gradient can be computed from the output.
                mean = (chunk_gradient * output[groups, :, rows]).sum(1)
                scores.sub_(mean[..., None]).mul_(weights)
                for_query[groups, :, rows] = key[groups] @ scores.mT
                for_key[groups].baddbmm_(chunk_query, scores, beta=beta)
        return for_query, for_key, for_value

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]: the decorator hides the names
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        query, key, value, gradient = ctx.saved_tensors
        of_query, of_key, of_value = gradients
        for_query, for_key, for_value, for_gradient = (_like(tensor).zero_() for tensor in ctx.saved_tensors)
        with no_autocast(query.device):
            for groups, rows in _Scratch(query, key).chunks:
                parts = _second_gradients(
                    (query[groups, :, rows], key[groups], value[groups], gradient[groups, :, rows]),
                    (of_query[groups, :, rows], of_key[groups], of_value[groups]),
                )
                for_query[groups, :, rows] = parts[0]
                for_key[groups] += parts[1]
                for_value[groups] += parts[2]
                for_gradient[groups, :, rows] = parts[3]
        return for_query, for_key, for_value, for_gradient, None


class _Scratch:
    """The partition into chunks of groups and queries, and buffers for their weights.

    Memory is allocated once: allocating it for every chunk would take longer than the computation.

    Args:
        query: Query of all groups.
        key: Key of all groups.
        buffers: Number of weight buffers.

    Attributes:
        chunks: Slices of groups and of queries, in order; a query's weights are never split.
    """

    def __init__(self, query: Tensor, key: Tensor, buffers: int = 0):
        groups, _, queries = query.shape
        self.keys = key.shape[2]
        # Each core processes separate groups, without synchronization.
        cores = torch.get_num_threads() if query.device.type == "cpu" else 1
        weights = cores * WEIGHTS_PER_CORE if query.device.type == "cpu" else WEIGHTS_PER_KERNEL
        at_once = max(1, min(groups, cores))  # a batch may be empty
        self.rows = min(queries, max(1, weights // (self.keys * at_once)))
        self.groups = max(1, min(groups, weights // (self.keys * self.rows)))
        self.chunks = [
            (slice(group, min(group + self.groups, groups)), slice(row, min(row + self.rows, queries)))
            for group in range(0, groups, self.groups)
            for row in range(0, queries, self.rows)
        ]
        self._buffers = [query.new_empty(self.groups * self.rows * self.keys) for _ in range(buffers)]

    def take(self, groups: slice, rows: slice) -> list[Float[Tensor, "groups rows keys"]]:
        """Return the buffers as uninitialized tensors of a chunk's shape."""
        shape = (groups.stop - groups.start, rows.stop - rows.start, self.keys)
        return [buffer[: shape[0] * shape[1] * shape[2]].view(shape) for buffer in self._buffers]


def _weigh(query: Tensor, key: Tensor, weights: Tensor) -> None:
    """Write the weights of some queries into ``weights``."""
    torch.bmm(query.mT, key, out=weights)
    torch.softmax(weights, -1, out=weights)


def _like(tensor: Tensor) -> Tensor:
    """Allocate a gradient: contiguous, so that products can be added in place."""
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _second_gradients(inputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the gradients of the four inputs of `_gradients`, given those of its three results."""
    inputs = tuple(tensor.detach().requires_grad_() for tensor in inputs)
    with torch.enable_grad():
        outputs = _gradients(*inputs)
    return torch.autograd.grad(outputs, inputs, gradients)


def _gradients(
    query: Float[Tensor, "groups key_channels rows"],
    key: Float[Tensor, "groups key_channels keys"],
    value: Float[Tensor, "groups channels keys"],
    gradient: Float[Tensor, "groups channels rows"],
) -> tuple[
    Float[Tensor, "groups key_channels rows"],
    Float[Tensor, "groups key_channels keys"],
    Float[Tensor, "groups channels keys"],
]:
    """Return the gradients of some queries, all keys and all values, given the queries' output gradient.

    Equals the forward pass of `_AttentionGradients`, written in operations that autograd can differentiate.
    """
    weights = (query.mT @ key).softmax(-1)
    weights_gradient = gradient.mT @ value
    scores_gradient = weights * (weights_gradient - (weights_gradient * weights).sum(-1, keepdim=True))
    return key @ scores_gradient.mT, query @ scores_gradient, gradient @ weights
