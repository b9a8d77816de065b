"""Profiles, condensed to the time of each kind of operation."""

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

# The first pattern that matches an operation's name decides. A fused kernel's softmax counts as attention products.
GROUPS = {
    "convolution backward": r"conv\w*_backward|convolution_backward",
    "convolution forward": r"conv",
    "optimizer": r"adam|Optimizer\.",
    "softmax and exp": r"softmax|::exp_?$",
    "attention products": r"::(bmm|baddbmm_?)$|scaled_dot_product|flash|attention|Attention",
    "normalization": r"batch_norm|BatchNorm|::(mv|mm|dot|ger|addmv_?|linalg_vector_norm|norm|_foreach_norm)$|Norm",
    "views and autograd": r"^autograd::|Backward\d*$|AccumulateGrad|::(view|slice|select|as_strided_?|transpose|t"
    r"|permute|expand|unsqueeze|squeeze|flatten|unflatten|movedim|mT|_reshape_alias|_unsafe_view|matmul|result_type|unbind|chunk"
    r"|narrow|split|pad|item|_local_scalar_dense|detach|is_\w+)$",
    "copies": r"::(copy_|clone|contiguous|_to_copy|to|cat|stack|constant_pad_nd|fill_|zero_|zeros|zeros_like|empty"
    r"|empty_like|empty_strided|new_empty|reshape|resize_|slice_backward|select_backward|index_put_|set_)$",
    "elementwise": r"::(add|sub|rsub|mul|div|neg|sum|mean|var|sqrt|reciprocal|pow|abs|clamp\w*|where|relu|leaky_relu"
    r"|tanh|sigmoid|threshold|isfinite|ne|eq|ge|le|lt|gt|logical_\w+|bitwise_\w+|randn|rand|normal|uniform|lerp|square"
    r"|maximum|minimum|addcmul|addcdiv|_foreach_\w+)_?(_backward)?$",
}
OTHER = "other"


def group_of(operation: str) -> str:
    """Return the group of a profiled operation."""
    return next((group for group, pattern in GROUPS.items() if re.search(pattern, operation)), OTHER)


def condense(operations: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Sum the seconds of operations by group, the largest first."""
    seconds = dict.fromkeys([*GROUPS, OTHER], 0.0)
    for operation, each in operations:
        seconds[group_of(operation)] += each
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def profile_of(work: Callable[[], object], times: int, device: str) -> dict[str, Any]:
    """Profile a function, and return where its time goes.

    Args:
        work: The function, already warmed up.
        times: Number of calls.
        device: ``"cuda"`` for the time of GPU kernels, else that of CPU operations.

    Returns:
        ``shares`` of the time by group, and the shares of the twelve longest ``operations``.
    """
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as profiled:
        for _ in range(times):
            work()
        if device == "cuda":
            torch.cuda.synchronize()
    operations = [(event.key, 1e-6 * _own_time(event, device)) for event in profiled.key_averages()]
    whole = sum(seconds for _, seconds in operations)
    longest = sorted(operations, key=lambda each: -each[1])[:12]
    return {
        "shares": {group: round(each / whole, 4) for group, each in condense(operations).items()},
        "operations": {name: round(each / whole, 4) for name, each in longest},
    }


def _own_time(event: Any, device: str) -> float:
    """Return the self time of an operation, without the operations that it called [microseconds]."""
    return event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
