"""Devices and cores."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def find_device(name: str | None) -> "torch.device":
    """Return a device by name; by default the fastest available one.

    Raises:
        ValueError: The device is unknown or not available.
    """
    import torch

    if name is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # what torch raises for an unknown device, and for an absent one
        raise ValueError(f"device is {name!r}, which can't be used here: {error}") from error


def available_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
