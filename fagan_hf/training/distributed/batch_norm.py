"""Batch norm synchronized over all processes: statistics of the whole micro-batch, on any device."""

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fagan_hf.layers.batch_norm import BatchNorm2d
from fagan_hf.layers.execution import is_recomputing


class _Sum(torch.autograd.Function):
    """All-reduce a tensor by summing. Every process uses the sum, so the backward pass sums the gradients as well."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _sum(gradients[0])  # itself differentiable


def _sum(tensor: Tensor) -> Tensor:
    return _Sum.apply(tensor)  # pyright: ignore[reportReturnType]


class SynchronizedBatchNorm(nn.BatchNorm2d):
    """Batch norm whose training pass sees the images of all processes, the same number in each.

    torch's `SyncBatchNorm` runs on GPUs only and has no second derivative, which gradient penalties need. This one
    consists of operations with derivatives of any order, at the cost of a few more kernels. In eval mode, and in the
    state dict, it is identical to the plain layer.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, torch's name
        """Return the normalized feature map ``[batch, channels, height, width]``."""
        if not self.training:
            return super().forward(input)
        processes = distributed.get_world_size()
        feature_map = input.float()  # statistics in half precision would be too coarse
        mean = _sum(feature_map.mean((0, 2, 3))) / processes
        centered = feature_map - mean[:, None, None]
        variance = _sum(centered.square().mean((0, 2, 3))) / processes
        self._remember(mean, variance, processes * input.numel() // input.shape[1])
        scale = (variance + self.eps).rsqrt() * self.weight
        return (centered * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, values: int) -> None:
        """Update the running statistics as torch does, with the unbiased variance."""
        if is_recomputing() or self.running_mean is None or self.running_var is None or self.momentum is None:
            return
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * values / max(values - 1, 1), self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


def synchronize_batch_norm(network: nn.Module) -> None:
    """Synchronize every batch norm of a network over all processes; its parameters and buffers are kept.

    Raises:
        ValueError: The network has a batch norm of another type.
    """
    for name, module in network.named_modules():
        if type(module) in (nn.BatchNorm2d, BatchNorm2d):
            module.__class__ = SynchronizedBatchNorm
        elif isinstance(module, _BatchNorm):
            raise ValueError(
                f"{name} is a {type(module).__name__}, which would see the images of one process only; for training "
                "with several processes use torch.nn.BatchNorm2d in custom layers, which is synchronized automatically"
            )
