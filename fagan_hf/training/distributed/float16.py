"""Autocast to float16, without Accelerate's loss scale: that is one for both players, and needs a GPU."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def compute_in_float16(network: nn.Module, device: torch.device) -> None:
    """Have a network's forward pass compute in float16 where autocast does, and return float32, as with bfloat16."""
    network.forward = _in_float16(network.forward, device.type)


def _in_float16(forward: Callable[..., Tensor], device_type: str) -> Callable[..., Tensor]:
    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Tensor:
        with torch.autocast(device_type, torch.float16):
            return forward(*args, **kwargs).float()

    return run
