"""Attention in chunks of queries, in torch's own operations: exact, linear in memory, and twice differentiable.

Feature maps keep their order here, ``[groups, channels, positions]``, a group being one head of one image. Query and
key have few channels, and products as thin as theirs are several times as fast when positions lie side by side.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

WEIGHTS_PER_CORE = 2**19
"""Attention weights that a CPU core has at a time, 2 MB of them: so they stay in its caches from pass to pass."""
WEIGHTS_PER_KERNEL = 2**24
"""The same for a whole accelerator, which wants few and large kernels; 64 MB."""


def chunked_attention(
    query: Float[Tensor, "groups key_channels queries"],
    key: Float[Tensor, "groups key_channels keys"],
    value: Float[Tensor, "groups channels keys"],
) -> Float[Tensor, "groups channels queries"]:
    """Give each query the mean of all values, weighted by ``softmax(query . key)`` over the keys.

    Where all weights fit into one chunk this is the formula as it stands; otherwise a chunk holds all weights of some
    queries. The backward pass computes them again. It has a derivative itself, the last one there is. Half precision is
    computed in single, as the fused kernels do.
    """
    dtype = torch.promote_types(value.dtype, torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        inputs = query.to(dtype).contiguous(), key.to(dtype).contiguous(), value.to(dtype)
        return _Attention.apply(*inputs).to(value.dtype)  # pyright: ignore[reportAttributeAccessIssue]


class _Attention(torch.autograd.Function):
    """Keeps inputs and output, no weights."""

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
            if is_channels_last:  # or what is computed would be transposed when it is written
                output.mT[groups, rows] = weights @ value[groups].mT
            else:
                output[groups, :, rows] = value[groups] @ weights.mT
        ctx.save_for_backward(query, key, value, output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, output = ctx.saved_tensors
        # The output follows from the other three, so a second derivative must not take it for an input of its own.
        return _AttentionGradients.apply(query, key, value, *gradients, output.detach())


class _AttentionGradients(torch.autograd.Function):
    """The backward pass of `_Attention`, which has one itself.

    Results are written into tensors made beforehand: a small one kept from each chunk would split the memory that the
    chunk gave back, and the next chunk could not use it again. (For that reason no `torch.utils.checkpoint` either.)
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, gradient: Tensor, output: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(query, key, value, gradient)
        for_query, for_key, for_value = (_like(tensor) for tensor in (query, key, value))
        scratch = _Scratch(query, key, buffers=2)
        with torch.autocast(query.device.type, enabled=False):
            for groups, rows in scratch.chunks:
                weights, scores = scratch.take(groups, rows)  # of the latter the gradient
                chunk_query, chunk_gradient = query[groups, :, rows], gradient[groups, :, rows]
                _weigh(chunk_query, key[groups], weights)
                torch.bmm(chunk_gradient.mT, value[groups], out=scores)  # first that of the weights
                beta = min(rows.start, 1)  # with 0 a sum begins, whatever is in memory
                for_value[groups].baddbmm_(chunk_gradient, weights, beta=beta)
                # Through the softmax: each row's mean gradient, as weighted, is what the output makes of it.
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
        with torch.autocast(query.device.type, enabled=False):
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
    """Which groups and which of their queries are computed at a time, and where their weights go.

    Memory is taken once: taken and given back for every chunk, it would cost more time than what is computed in it.

    Args:
        query: Of all groups.
        key: The same.
        buffers: How many tensors of a chunk's weights are held.

    Attributes:
        chunks: Slices of groups and of queries, in order; a query's weights are never divided.
    """

    def __init__(self, query: Tensor, key: Tensor, buffers: int = 0):
        groups, _, queries = query.shape
        self.keys = key.shape[2]
        # Each core works at groups of its own, which needs no agreement with others.
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
        """Give the buffers as tensors of a chunk's shape, with whatever is in them."""
        shape = (groups.stop - groups.start, rows.stop - rows.start, self.keys)
        return [buffer[: shape[0] * shape[1] * shape[2]].view(shape) for buffer in self._buffers]


def _weigh(query: Tensor, key: Tensor, weights: Tensor) -> None:
    """Write the weights of some queries into ``weights``."""
    torch.bmm(query.mT, key, out=weights)
    torch.softmax(weights, -1, out=weights)


def _like(tensor: Tensor) -> Tensor:
    """Make room for a gradient: contiguous, so that products are added in place."""
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _second_gradients(inputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Give what the gradients of the three results of `_gradients` pass on to its four inputs."""
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
    """Give what some queries' output gradient passes on to these queries, all keys and all values.

    The same as the forward pass of `_AttentionGradients`, written so that autograd can follow.
    """
    weights = (query.mT @ key).softmax(-1)
    weights_gradient = gradient.mT @ value
    scores_gradient = weights * (weights_gradient - (weights_gradient * weights).sum(-1, keepdim=True))
    return key @ scores_gradient.mT, query @ scores_gradient, gradient @ weights
