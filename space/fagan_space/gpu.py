"""GPU access: ZeroGPU Spaces lend a GPU for one call; elsewhere calls run on the model's device."""

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

try:
    import spaces  # exists only on Spaces, and must be imported before torch
except ImportError:
    spaces = None


def on_gpu(function: Function) -> Function:
    """Run a function on the ZeroGPU device, if there is one."""
    return function if spaces is None else spaces.GPU(duration=60)(function)
