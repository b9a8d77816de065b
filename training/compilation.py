"""Compiled networks: fewer and larger kernels, for GPUs that wait for the next one."""

from typing import Any

import torch
from torch import nn

OPTIONS: dict[str, dict[str, Any]] = {"kernels": {}, "cuda_graphs": {"mode": "reduce-overhead"}}
"""By a recipe's `compile`: what `torch.compile` is told."""


def check_compilation(how: str, device: torch.device) -> None:
    """Refuse what this device has not got.

    Raises:
        ValueError: CUDA graphs on another device.
    """
    if how == "cuda_graphs" and device.type != "cuda":
        raise ValueError(f"compile is 'cuda_graphs', but the device is {device.type}; try 'kernels' or 'no'")


def compile_network(network: nn.Module, how: str) -> None:
    """Let the forward passes of a network be compiled when they are first used; its weights stay what they are.

    Copies are not compiled, and what is called past the network's own call is not either: gradient penalties, whose
    second derivative compilers don't know.
    """
    if how != "no":
        network.compile(**OPTIONS[how])


def begin_step(how: str) -> None:
    """Say that what compiled networks gave in the step before is not needed any more."""
    if how == "cuda_graphs":
        torch.compiler.cudagraph_mark_step_begin()
