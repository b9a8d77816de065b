"""Scaling of a step's speed with processes and threads, and of its cost with image size; see also `pooled`.

torchrun --nproc_per_node 2 -m benchmarks.speed_of.scale 10 1   # a single launch: 10 steps, 1 thread
"""

import json
import os
import subprocess
import sys
from typing import Any

import torch

from benchmarks.memory import ROOT
from benchmarks.speed_of.our_step import Ours
from benchmarks.speed_of.pooled import measure_pooled
from benchmarks.speed_of.settings import Settings
from benchmarks.speed_of.targets import Found, Row
from benchmarks.speed_of.timing import Times, alternate, growth
from fagan_hf.architectures.presets import every_layer_full_attention, preset

MODEL, BATCH, LOSS = "fagan-plain-32", 32, "relativistic_hinge"
LAUNCHES = {  # processes, threads of each
    "1 process, 1 thread": (1, 1),
    "1 process, 2 threads": (1, 2),
    "2 processes, 1 thread each": (2, 1),
}
SIZES = {32: 8, 64: 4, 128: 2, 256: 1}  # resolution: images per step


def measure_scale(settings: Settings) -> Found:
    """Measure processes and threads (on a CPU only), then image sizes, without and with pooled keys."""
    found = _measure_processes(settings) if settings.device == "cpu" else Found([], {})
    for more in (_measure_sizes(settings), measure_pooled(settings)):
        found = Found(found.rows + more.rows, found.details | more.details)
    return found


def _measure_processes(settings: Settings) -> Found:
    """Alternate between all launch configurations, and take the median of each one's medians."""
    seconds: dict[str, list[float]] = {name: [] for name in LAUNCHES}
    for _ in range(1 if settings.is_quick else 3):
        for name, (processes, threads) in LAUNCHES.items():
            seconds[name].append(launch(processes, threads, settings.rounds))
    rates = {name: BATCH / Times(each).median for name, each in seconds.items()}
    base = rates["1 process, 1 thread"]
    rows = [Row(name, rate / base, note=f"{rate:,.1f} img/s") for name, rate in rates.items()]
    details = {"model": MODEL, "batch": BATCH, "median_seconds_of_each_launch": seconds}
    return Found(rows, {"processes": details})


def launch(processes: int, threads: int, rounds: int) -> float:
    """Start processes that share a step's batch, and return the median time of a step [s]."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    result = subprocess.run(
        [*launcher, "-m", "benchmarks.speed_of.scale", str(rounds), str(threads)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""},
    )
    return json.loads(result.stdout.splitlines()[-1])


def main(rounds: int, threads: int) -> None:
    """Time steps in one of several processes; the main one prints the median."""
    torch.set_num_threads(threads)
    ours = Ours(preset(MODEL), LOSS, BATCH)
    processes = ours.trainer.processes
    times = alternate({"step": ours.step}, rounds)
    if processes.is_main:
        print(json.dumps(times["step"].median))
    processes.end()


def _measure_sizes(settings: Settings) -> Found:
    """Measure the cost of an image as networks get one more layer per doubling of the size, all else equal."""
    sizes = [size for size in SIZES if not (settings.is_quick and size > 128)]
    seconds: dict[int, float] = {}
    details: dict[str, Any] = {}
    for size in sizes:
        widths = (96,) * (size.bit_length() - 5) + (48, 24)
        architecture = every_layer_full_attention(image_size=size, latent_dim=64, widths=widths)
        ours = Ours(architecture, LOSS, SIZES[size])
        # Longer steps need fewer rounds.
        rounds = max(1, settings.rounds * 32 // size)
        times = alternate({"step": ours.step}, rounds, device=settings.device)["step"]
        seconds[size] = times.median / SIZES[size]
        details[f"{size}x{size}"] = {"batch": SIZES[size], "widths": widths, **times.to_json()}
    rows = [
        Row(f"an image's share of a step, {size}x{size}", each, "s", f"{1 / each:,.2f} img/s")
        for size, each in seconds.items()
    ]
    power = growth([size * size for size in sizes], list(seconds.values()))
    rows.append(Row("an image's share of a step, power of pixels", power, ""))
    return Found(rows, {"sizes": details, "grows_with_this_power_of_pixels": round(power, 3)})


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
