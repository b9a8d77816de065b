"""Batch norm over all processes: the statistics are those of the whole micro-batch, on any device."""

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Sum(torch.autograd.Function):
    """Add up a tensor over the processes. What each makes of the sum depends on it, so gradients add up as well."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _sum(gradients[0])  # which can be differentiated again


def _sum(tensor: Tensor) -> Tensor:
    return _Sum.apply(tensor)  # pyright: ignore[reportReturnType]


class SynchronizedBatchNorm(nn.BatchNorm2d):
    """Batch norm whose training pass sees the images of all processes, each of which has as many.

    torch's `SyncBatchNorm` runs on GPUs only and has no second derivative, which gradient penalties need. This one is
    made of operations that have all derivatives, at the price of a few kernels more. It is the plain layer in eval
    mode, and in what is saved.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, torch's name
        """Give the normalized feature map ``[batch, channels, height, width]``."""
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
        """Move the running statistics, as torch does: with the variance of a sample."""
        if self.running_mean is None or self.running_var is None or self.momentum is None:
            return
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * values / max(values - 1, 1), self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


def synchronize_batch_norm(network: nn.Module) -> None:
    """Let every batch norm of a network see all processes; its parameters and buffers stay what they are.

    Raises:
        ValueError: There is one of another kind.
    """
    for name, module in network.named_modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SynchronizedBatchNorm
        elif isinstance(module, _BatchNorm):
            raise ValueError(
                f"{name} is a {type(module).__name__}, which would see the images of one process only; with several "
                "processes a layer of your own may use torch.nn.BatchNorm2d, which is made to see all"
            )
