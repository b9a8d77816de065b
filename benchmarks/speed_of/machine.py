"""The training step against the machine: its peak, the share that we reach, and where the rest of the time goes."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.speed_of.groups import profile_of
from benchmarks.speed_of.our_step import Ours
from benchmarks.speed_of.settings import NO_BF16, Settings, name_of
from benchmarks.speed_of.targets import Found, Row
from benchmarks.speed_of.timing import alternate
from fagan_hf.architectures.presets import preset
from fagan_hf.layers import FullAttention
from fagan_hf.training.recipe import Precision

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16}
STEPS = {"fagan-classic-64": 32, "fagan-plain-64": 8}  # model: images per step
LOSS = "relativistic_hinge"
SIDE = 2048  # of the multiplied matrices
PEAK_ROUNDS = 10


def measure_machine(settings: Settings) -> Found:
    """Measure peaks, then the share that a step reaches."""
    rows: list[Row] = []
    details: dict[str, Any] = {}
    peaks: dict[Precision, float] = {}
    for precision in settings.precisions():
        found = peak_rates(settings.device, DTYPES[precision])
        peaks[precision] = found["matrix product"]
        for name, rate in found.items():
            rows.append(Row(f"peak, {name}, {name_of(precision)}", 1e-9 * rate, "GFLOP/s"))
        details[f"peak, {name_of(precision)}"] = {name: round(1e-9 * rate, 1) for name, rate in found.items()}
    if "bf16" not in peaks:
        rows.append(Row("peak, bf16", None, note=NO_BF16))
    for model, batch in STEPS.items():
        for precision, peak in peaks.items():
            ours = Ours(preset(model), LOSS, batch, precision)
            flops = flops_of(ours)
            times = alternate({"step": ours.step}, settings.rounds, device=settings.device)["step"]
            share = flops / times.median / peak
            where = profile_of(ours.step, 1 if settings.is_quick else 3, settings.device)
            name = f"step of {model}, {name_of(precision)}"
            note = f"of the matrix product's peak: {1e-9 * flops:,.1f} GFLOP in {times.median:.2f} s"
            rows.append(Row(f"{name}, reached", 100 * share, "%", note))
            rows += [Row(f"  {group}, {model}", 100 * each, "%") for group, each in where["shares"].items()]
            details[name] = {"batch": batch, "flops": flops, "share_of_peak": round(share, 4)}
            details[name] |= {"time": times.to_json(), "profile": where}
    return Found(rows, details)


def peak_rates(device: str, dtype: torch.dtype, side: int = SIDE) -> dict[str, float]:
    """Measure the throughput of a matrix product and a convolution, the best of several rounds [FLOP/s].

    Args:
        device: Where to compute.
        dtype: Data type of all tensors.
        side: Side of the square matrices.
    """
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    # As in a discriminator: 4x4 with stride 2, and large enough to reach peak throughput.
    convolution = torch.nn.Conv2d(128, 256, 4, 2, 1, device=device, dtype=dtype)
    convolution.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    maps = torch.randn(32, 128, 32, 32, device=device).to(dtype, memory_format=torch.channels_last)
    with torch.no_grad():
        works = {"matrix product": lambda: left @ right, "4x4 convolution": lambda: convolution(maps)}
        times = alternate(works, PEAK_ROUNDS, device=device)
        flops = {name: count_flops(work) for name, work in works.items()}
    return {name: flops[name] / min(times[name].seconds) for name in works}


def flops_of(ours: Ours) -> int:
    """Count the operations that a step needs by its formulas: without padding or recomputation [FLOP]."""
    with _plain_attention():
        return count_flops(ours.step)


def count_flops(work: Callable[[], object]) -> int:
    """Count the operations of a function by torch's formulas, double backward included [FLOP]."""
    with _FlopCounter() as counter:
        work()
    return counter.total


class _FlopCounter(TorchDispatchMode):
    """torch's formulas without the module tracker of `FlopCounterMode`, which fails on second derivatives."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=output)
        return output


def _plain_attention() -> AbstractContextManager[Any]:
    """Let attention layers use plain matrix products, which are counted; fused kernels are not counted on a CPU."""

    def attention(query: Tensor, key: Tensor, value: Tensor, heads: int = 1) -> Tensor:
        query, key, values = (each.flatten(2).unflatten(1, (heads, -1)).flatten(0, 1) for each in (query, key, value))
        mixed = values @ (query.mT @ key).softmax(-1).mT
        return mixed.unflatten(0, (len(value), heads)).flatten(1, 2).unflatten(2, value.shape[2:])

    return patch.object(sys.modules[FullAttention.__module__], "attention", attention)
