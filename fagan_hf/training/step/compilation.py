"""Compiled networks: fewer and larger kernels, for GPUs that wait for the next one."""

from typing import Any

import torch
from torch import nn

OPTIONS: dict[str, Any] = {}
"""What `torch.compile` is told."""


def check_compilation(how: str, device: torch.device, *, processes: int = 1, accumulation: int = 1) -> None:
    """Refuse what can't be done here.

    Args:
        how: A recipe's `compile`.
        device: Where the run trains.
        processes: How many share a step.
        accumulation: Micro-batches of a step.

    Raises:
        ValueError: CUDA graphs on another device, over several processes, or with gradient accumulation.
    """
    if how != "cuda_graphs":
        return
    if device.type != "cuda":
        raise ValueError(f"compile is 'cuda_graphs', but the device is {device.type}; try 'kernels' or 'no'")
    if processes > 1:
        raise ValueError(
            f"compile is 'cuda_graphs', but {processes} processes share a step: what they exchange can't be captured "
            "yet; try 'kernels' or 'no'"
        )
    if accumulation > 1:
        raise ValueError(
            f"compile is 'cuda_graphs' and gradient_accumulation {accumulation}: a graph holds a step of one "
            "micro-batch; try --gradient_accumulation 1, or --compile kernels"
        )


def compile_network(network: nn.Module, how: str) -> None:
    """Let the forward passes of a network be compiled when they are first used; its weights stay what they are.

    Copies are not compiled, and what is called past the network's own call is not either: gradient penalties, whose
    second derivative compilers don't know.
    """
    if how == "kernels":
        network.compile(**OPTIONS)
