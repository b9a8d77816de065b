"""The graphics card that a ZeroGPU Space lends for one call; elsewhere a call runs where the model is."""

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

try:
    import spaces  # only on Spaces, where it must come before torch
except ImportError:
    spaces = None


def on_gpu(function: Function) -> Function:
    """Run a function on the lent card where there is one."""
    return function if spaces is None else spaces.GPU(duration=60)(function)
