"""Compiled networks: fewer and larger kernels, for GPUs limited by kernel launches."""

from typing import Any

import torch
from torch import nn

OPTIONS: dict[str, Any] = {}
"""Options of `torch.compile`."""


def check_compilation(how: str, device: torch.device, *, processes: int = 1, accumulation: int = 1) -> None:
    """Refuse a compilation mode that is not supported here.

    Args:
        how: The recipe's `compile`.
        device: Device of the run.
        processes: Number of processes that share a step.
        accumulation: Micro-batches per step.

    Raises:
        ValueError: CUDA graphs on another device, over several processes, or with gradient accumulation.
    """
    if how != "cuda_graphs":
        return
    if device.type != "cuda":
        raise ValueError(f"compile is 'cuda_graphs', but the device is {device.type}; try 'kernels' or 'no'")
    if processes > 1:
        raise ValueError(
            f"compile is 'cuda_graphs', but {processes} processes share a step, and their communication can't be "
            "captured yet; try 'kernels' or 'no'"
        )
    if accumulation > 1:
        raise ValueError(
            f"compile is 'cuda_graphs' and gradient_accumulation is {accumulation}, but a graph supports only one "
            "micro-batch per step; try --gradient_accumulation 1, or --compile kernels"
        )


def compile_network(network: nn.Module, how: str) -> None:
    """Compile the forward passes of a network on first use; its weights are unchanged.

    Copies are not compiled, nor are calls that bypass the network's own call: gradient penalties, whose second
    derivative compilers don't support.
    """
    if how == "kernels":
        network.compile(**OPTIONS)
