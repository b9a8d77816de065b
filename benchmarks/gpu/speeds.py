"""Training speed of a GPU: images per second, share of its matmul peak, memory, and speedup over attn-gan-pytorch."""

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu.step import Step
from benchmarks.speed_of.machine import count_flops
from benchmarks.speed_of.timing import alternate
from fagan_hf.training.recipe import Precision
from fagan_hf.training.step.regularization import Regularization

Case = tuple[str, int, Precision, str]
"""Model, batch size, precision, and compile mode."""

CASES: tuple[Case, ...] = (
    ("fagan-64", 64, "no", "no"),
    ("fagan-64", 64, "bf16", "no"),
    ("fagan-64", 64, "bf16", "cuda_graphs"),
    ("fagan-64", 256, "bf16", "cuda_graphs"),
    ("fagan-64-small", 64, "no", "cuda_graphs"),
    ("fagan-64-small", 64, "bf16", "cuda_graphs"),
    ("fagan-64-small", 256, "bf16", "cuda_graphs"),
    ("fagan-128", 32, "bf16", "no"),
    ("fagan-128", 32, "bf16", "cuda_graphs"),
    ("fagan-128", 128, "bf16", "cuda_graphs"),
    ("fagan-classic-64", 128, "bf16", "no"),
    ("fagan-classic-64", 128, "bf16", "cuda_graphs"),
    ("fagan-256", 8, "bf16", "no"),
    ("fagan-256", 16, "bf16", "cuda_graphs"),
    ("fagan-64", 64, "fp16", "no"),
    ("fagan-64", 64, "bf16", "kernels"),
)
SMALL_CASES: tuple[Case, ...] = (("fagan-32", 4, "no", "no"),)
COUNTED = (("fagan-64", 64), ("fagan-128", 32), ("fagan-classic-64", 128))
SMALL_COUNTED = (("fagan-32", 4),)
PEER_BATCH = 64


def name_of(case: Case) -> str:
    """Return the name of a case in the results."""
    model, batch, precision, how = case
    return f"{model}, batch {batch}, {_precision_name(precision)}, compile {how}"


def _precision_name(precision: Precision) -> str:
    return "float32" if precision == "no" else precision


def _step_of(model: str, batch: int, precision: Precision = "no", how: str = "no") -> Step:
    """Make a step with the recipe of the model: FAGAN's original networks use its loss and no penalties."""
    if "classic" in model:
        return Step(model, batch, precision, how, loss="relativistic_hinge", regularization=Regularization())
    return Step(model, batch, precision, how)


def measure_case(case: Case, seconds: float = 4.0) -> dict[str, Any]:
    """Measure one case: the median time of four steps, one of them with penalties."""
    model, batch, precision, how = case
    _free()
    step = _step_of(model, batch, precision, how)
    started = time.perf_counter()
    step.run(16)
    _wait(step.device)
    warm_up = time.perf_counter() - started
    if step.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = _repeat(lambda: step.run(4), step.device, seconds)
    median = statistics.median(times) / 4
    found: dict[str, Any] = {
        "images_per_second": round(batch / median, 1),
        "milliseconds_of_a_step": round(1e3 * median, 3),
        "rounds": len(times),
        "warm_up_seconds": round(warm_up, 1),
    }
    if step.device.type == "cuda":
        found["peak_memory_mb"] = round(torch.cuda.max_memory_reserved() / 2**20)
    return found


def flops_of(model: str, batch: int) -> float:
    """Count the operations of a step, as the mean of four steps, one of them with penalties [FLOP].

    Counted on eager steps; fused attention kernels count as their two matrix products, forward and backward.
    """
    _free()
    step = _step_of(model, batch)
    step.run(1)
    step.steps = 0
    return count_flops(lambda: step.run(4)) / 4


def peak_rates(side: int = 8192) -> dict[str, float]:
    """Measure the throughput of matrix products on this GPU [TFLOP/s]."""
    found = {}
    for name, dtype in (("bf16", torch.bfloat16), ("float32", torch.float32)):
        left, right = (torch.randn(side, side, device="cuda", dtype=dtype) for _ in range(2))
        times = _repeat(lambda left=left, right=right: left @ right, torch.device("cuda"), 1.0)
        found[name] = round(2e-12 * side**3 / statistics.median(times), 1)
    return found


def against_peer(batch: int = PEER_BATCH) -> dict[str, Any]:
    """Time a relativistic step of FAGAN's original networks, alternating with attn-gan-pytorch."""
    from benchmarks.speed_of.peer_step import Peer
    from fagan_hf.architectures.presets import preset

    _free()
    sides: dict[str, Callable[[], object]] = {
        "peer, float32": Peer(preset("fagan-classic-64"), "relativistic_hinge", batch, "cuda").step
    }
    compared: list[tuple[Precision, str]] = [("no", "no"), ("no", "cuda_graphs"), ("bf16", "cuda_graphs")]
    for precision, how in compared:
        name = f"ours, {_precision_name(precision)}, compile {how}"
        step = _step_of("fagan-classic-64", batch, precision, how)
        step.run(8)
        sides[name] = step.step
    alternate(sides, 4, device="cuda")  # warm-up: libraries choose their kernels
    times = alternate(sides, 20, device="cuda", is_warm=True)
    rates = {name: batch / each.median for name, each in times.items()}
    peer = rates["peer, float32"]
    return {
        "batch": batch,
        "images_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "times_the_peer": {name: round(rate / peer, 2) for name, rate in rates.items() if "ours" in name},
    }


def profile(model: str = "fagan-64", batch: int = 64, precision: Precision = "bf16") -> dict[str, Any]:
    """Profile four eager steps: kernel launches, and the kernels that take most time."""
    _free()
    step = Step(model, batch, precision)
    step.run(8)
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        step.run(4)
        torch.cuda.synchronize()
    events = profiler.key_averages()
    kernels = [
        each for each in events if each.device_type == torch.autograd.DeviceType.CUDA and not each.is_user_annotation
    ]
    total = sum(each.self_device_time_total for each in kernels)
    top = sorted(kernels, key=lambda each: -each.self_device_time_total)[:30]
    return {
        "kernels_of_a_step": sum(each.count for each in kernels) / 4,
        "device_milliseconds_of_a_step": round(total / 4e3, 2),
        "top": [[each.key[:110], each.count // 4, round(100 * each.self_device_time_total / total, 1)] for each in top],
    }


def _repeat(work: Callable[[], object], device: torch.device, seconds: float) -> list[float]:
    work()
    _wait(device)
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        times.append(_timed(work, device))
    return times


def _timed(work: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
