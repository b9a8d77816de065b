"""How torch runs a layer at the moment: recomputing, transformed, in mixed precision."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def is_recomputing() -> bool:
    """Return whether this forward pass is run by a backward pass, as `torch.utils.checkpoint` does.

    Such a pass must repeat an earlier one exactly, and not update any buffer a second time.
    """
    # Compilers recompute in graphs, from the values that the first pass had.
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def has_tensor_hooks() -> bool:
    """Return whether saved tensors are intercepted, as by non-reentrant checkpointing in both of its passes."""
    autograd: Any = torch._C._autograd  # pyright: ignore[reportAttributeAccessIssue]
    return autograd._top_saved_tensors_default_hooks(True) is not None


def is_transformed() -> bool:
    """Return whether a transform of `torch.func` (grad, vmap, jvp, ...) is running."""
    return torch._C._are_functorch_transforms_active()


def no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Turn autocast off in a block; there is none on the meta device."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
