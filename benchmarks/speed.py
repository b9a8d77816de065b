"""Compare the speed of training and inference with attn-gan-pytorch 1.2.3, and with the machine's peak.

    python benchmarks/speed.py all --quick      # under 10 minutes on two CPU cores
    python benchmarks/speed.py step --rounds 5

step     a training step of FAGAN's original networks at batch size 32, with two losses: time and memory
layer    one full attention layer over 256 to 16,384 positions: time, memory, and how they scale
full     a training step where every layer is full attention, 64x64 and 128x128
sample   images per second at batch size 1, 16 and 64, and time to the first image
data     throughput of the loader against that of a step, and of data preparation
scale    one and two processes, and the cost of an image from 32x32 to 256x256; that of the flagship to 512x512
machine  the share of the machine's peak that a step reaches, and where the rest goes

Ours and the peer's alternate in one process, so that other load on the machine affects both; compare medians and their
ratio. First both get the same weights and must compute the same in float32, otherwise nothing is timed. Memory is
measured in a separate process for each. A full run writes benchmarks/results/speed-<name>.json.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from datetime import date
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# As in training/train.py, and for both sides: waiting threads must not keep a core busy that others need.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import torch

from benchmarks.speed_of.settings import Settings
from benchmarks.speed_of.targets import TARGETS, Found, Row, mark
from fagan_hf.training.run.facts import command, hardware, versions

RESULTS = Path(__file__).resolve().parent / "results"
BENCHMARKS: dict[str, tuple[str, int, int]] = {  # name: function, rounds of a full and of a quick run
    "step": ("step:measure_step", 7, 3),
    "layer": ("layer:measure_layer", 5, 2),
    "full": ("step:measure_full", 5, 2),
    "sample": ("sample:measure_sample", 9, 3),
    "data": ("data:measure_data", 9, 3),
    "scale": ("scale:measure_scale", 9, 3),
    "machine": ("machine:measure_machine", 7, 3),
}
PEER = "attn-gan-pytorch"


def measure(name: str, settings: Settings) -> Found:
    """Run a benchmark; it is imported only here, because not all of them need the peer."""
    module, _, function = BENCHMARKS[name][0].partition(":")
    work: Callable[[Settings], Found] = getattr(import_module(f"benchmarks.speed_of.{module}"), function)
    return work(settings)


def to_json(found: Found, settings: Settings) -> dict[str, Any]:
    """Combine results with date, hardware, versions and settings."""
    return {
        "date": date.today().isoformat(),
        "hardware": hardware(settings.device, 1),
        "versions": versions() | {PEER: version(PEER)},
        "command": command(),
        "threads": settings.threads,
        "rounds": settings.rounds,
        "table": [row.to_json() for row in found.rows],
        **found.details,
    }


def summary(rows: list[Row]) -> str:
    """Summarize how many numbers reach their targets."""
    marks = [mark(row.name, row.value) for row in rows]
    missing = sum(row.value is None and row.name in TARGETS for row in rows)
    return f"{marks.count('pass')} pass, {marks.count('short')} short, {missing} not measured"


def main() -> None:
    """Run benchmarks, print tables, and write results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=[*BENCHMARKS, "all"])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, without the longest parts; writes no file")
    parser.add_argument("--rounds", type=int, help="how often each thing is timed (default: depends on the benchmark)")
    parser.add_argument("--out", type=Path, help="write the results here, also those of --quick")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    if find_spec("attn_gan_pytorch") is None:
        parser.error(f"the peer is not installed: pip install --no-deps {PEER}==1.2.3")
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # otherwise training would use the GPU
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    names = list(BENCHMARKS) if options.benchmark == "all" else [options.benchmark]
    rows: list[Row] = []
    results: dict[str, Any] = {}
    for name in names:
        _, full_rounds, quick_rounds = BENCHMARKS[name]
        rounds = options.rounds or (quick_rounds if options.quick else full_rounds)
        settings = Settings(rounds, options.quick, options.threads, options.device)
        print(f"{name}, {rounds} rounds", flush=True)
        found = measure(name, settings)
        print(*found.rows, "", sep="\n", flush=True)
        rows += found.rows
        results[name] = to_json(found, settings)
        if not (options.quick or options.out):
            _write(RESULTS / f"speed-{name}.json", results[name])
    if len(names) > 1:
        print("Targets", *(row for row in rows if row.name in TARGETS), sep="\n")
    print(summary(rows))
    if options.out:
        _write(options.out, results if len(names) > 1 else results[names[0]])


def _write(path: Path, results: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
