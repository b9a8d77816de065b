"""Is full attention worth its cost? Train baselines for the same time, and compare their metrics.

    python benchmarks/quality.py --minutes 10                # every arm, three seeds; resumes where it was stopped
    python benchmarks/quality.py --arms classic flagship --seeds 1 --minutes 2 --results /tmp/try.json

All arms have the same number of parameters within 10 %, the same images (avatars at 32x32) and the same training time,
with the same command, training/train.py, on one thread; two runs go in parallel. Time spent on evaluation doesn't
count. Each finished generator is evaluated; those of the baselines also with all gates at 0 and at 1.

Results are written after every run, with hardware and versions. Runs in the results file are not repeated; if one has a
different network or recipe, the command refuses to start. Each seed is run for all arms before the next one, so that
runs to be compared are close in time: a machine is not always equally fast.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from benchmarks.quality_arms import ARMS, CHOICES, RECIPE, RIVALS, architecture_of, identity_of, parameters
from fagan_hf import Generator
from fagan_hf.architectures.load import save_architecture
from fagan_hf.data.image_source import ImageSource
from fagan_hf.data.prepare import prepare_images
from fagan_hf.hub.repository import HISTORY, write_json
from fagan_hf.layers import gates, override_alpha
from fagan_hf.metrics import evaluate
from fagan_hf.training.run.facts import command, commit, hardware, versions
from fagan_hf.utils.allocator import keep_freed_memory
from fagan_hf.utils.files import replacing
from fagan_hf.viz.plots import read_metrics

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/quality.json"
NUM_IMAGES = 2048
SHOWN = ("fd", "kid", "precision", "recall", "density", "coverage")
_LOWER_IS_BETTER = ("fd", "kid")
_AT_ONCE = 2


def train(name: str, arm: str, seed: int, options: argparse.Namespace) -> Path:
    """Train one run to its end, resuming it if necessary; return its folder."""
    folder = options.output_dir / name
    recipe = {**RECIPE, **ARMS[arm].recipe, "name": name, "seed": seed, "output_dir": options.output_dir}
    model = options.output_dir / f"{arm}.json"
    recipe |= {"model": model, "max_minutes": options.minutes, "cpu_threads": 1}
    recipe |= {"eval_every_images": options.eval_every_images, "eval_num_images": NUM_IMAGES}
    recipe |= {"log_every_images": 1024, "sample_every_images": 16384, "checkpoint_every_images": 4096}
    flags = [
        str(each) for field, value in recipe.items() for each in (f"--{field}", "null" if value is None else value)
    ]
    with (options.output_dir / f"{name}.log").open("a") as log:
        subprocess.run(
            [sys.executable, "training/train.py", *flags], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=True
        )
    return folder


def measure(folder: Path, *, is_swept: bool) -> dict[str, Any]:
    """Evaluate a finished run's generator, as trained and, if ``is_swept``, with all gates at 0 and at 1."""
    generator = Generator.from_pretrained(folder)
    images = prepare_images(ImageSource(RECIPE["dataset"], resolution=generator.config.image_size), progress=False)

    def numbers(alpha: float | None) -> dict[str, float]:
        with nullcontext() if alpha is None else override_alpha(generator, alpha):
            found = evaluate(generator, images, num_images=NUM_IMAGES, progress=False)
        return {each.type.partition("_")[0]: each.value for each in found.metrics()}

    lines = read_metrics(folder / HISTORY)
    last = lines[-1]
    measured = {"metrics": numbers(None)}
    if gates(generator):
        if is_swept:
            measured["gates_at_0"], measured["gates_at_1"] = numbers(0.0), numbers(1.0)
        measured["gates"] = {name: round(gate.item(), 4) for name, gate in gates(generator).items()}
    return measured | {
        "ended": datetime.now(UTC).isoformat(timespec="minutes"),
        "images": last["images"],
        "seconds": last["seconds"],
        "images_per_second": round(last["images"] / last["seconds"], 2),
        "peak_memory_mb": memory_of_training(lines),
        "curve": [
            {"seconds": line["seconds"], "images": line["images"], **_of_line(line)}
            for line in lines
            if any(key.startswith("fd_") for key in line)
        ],
    }


def memory_of_training(lines: Sequence[Mapping[str, float]]) -> float | None:
    """Return the peak memory [MB] before the first evaluation, which takes more; ``None`` if nothing precedes it."""
    peaks = [line["peak_memory_mb"] for line in itertools.takewhile(lambda line: not _of_line(line), lines)]
    return max(peaks, default=None)


def _of_line(line: Mapping[str, float]) -> dict[str, float]:
    return {
        key.partition("_")[0]: value for key, value in line.items() if key.partition("_")[0] in SHOWN and "_" in key
    }


def table(runs: Mapping[str, Mapping[str, Any]], arms: Sequence[str]) -> str:
    """Format mean and standard deviation over seeds as a Markdown table, one line per arm."""
    heads = [f"{name} {'↓' if name in _LOWER_IS_BETTER else '↑'}" for name in SHOWN]
    lines = ["| | seeds | " + " | ".join(heads) + " | img/s | MB |", "| --- " * (len(SHOWN) + 4) + "|"]
    for arm in arms:
        of_arm = [run for run in runs.values() if run["arm"] == arm]
        if not of_arm:
            continue
        cells = [_spread([run["metrics"][name] for run in of_arm]) for name in SHOWN]
        cells.append(f"{statistics.mean(run['images_per_second'] for run in of_arm):.0f}")
        memory = [run["peak_memory_mb"] for run in of_arm if run["peak_memory_mb"] is not None]
        cells.append(f"{statistics.mean(memory):.0f}" if memory else "")
        lines.append(f"| {ARMS[arm].about} | {len(of_arm)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def beside_choices(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Select the ablations' runs, and the flagship's runs with the same seeds, for comparison."""
    seeds = {run["seed"] for run in runs.values() if run["arm"] in CHOICES}
    arms = "flagship", *CHOICES
    return {name: run for name, run in runs.items() if run["arm"] in arms and run["seed"] in seeds}


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.3g}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.2g}"


def main() -> None:
    """Train the missing runs, evaluate them, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="default: all")
    parser.add_argument("--seeds", type=int, default=3, help="number of runs of each arm (default: 3)")
    parser.add_argument("--minutes", type=float, default=10, help="training time of each run (default: 10)")
    parser.add_argument("--eval_every_images", type=int, default=16384)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/quality"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)  # evaluation runs next to training
    options.output_dir = options.output_dir.resolve()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    known = json.loads(options.results.read_text(encoding="utf-8")) if options.results.is_file() else {}
    if known and known["minutes"] != options.minutes:
        parser.error(f"{options.results} has runs of {known['minutes']:g} minutes; use the same, or another --results")
    runs: dict[str, Any] = known.get("runs", {})
    architectures = {arm: architecture_of(arm) for arm in options.arms}
    for arm, architecture in architectures.items():
        with replacing(options.output_dir / f"{arm}.json", make_folder=True) as path:
            save_architecture(path, architecture)
    identities = {arm: identity_of(arm) for arm in options.arms}
    if stale := [name for name, run in runs.items() if run["identity"] != identities.get(run["arm"], run["identity"])]:
        parser.error(
            f"{options.results} has runs whose network or recipe has changed since: {', '.join(stale)}; remove them, "
            "or use another --results"
        )
    todo = [
        (f"{arm}-{seed}", arm, seed)
        for seed in range(options.seeds)
        for arm in options.arms
        if f"{arm}-{seed}" not in runs
    ]
    writing = Lock()

    def do(name: str, arm: str, seed: int) -> None:
        found = measure(train(name, arm, seed, options), is_swept=arm in RIVALS)
        with writing:
            runs[name] = {
                "arm": arm,
                "seed": seed,
                "identity": identities[arm],
                "parameters": parameters(architectures[arm]),
                "hardware": hardware("cpu", 1),
                "versions": versions(),
                "commit": commit().get("commit"),
                **found,
            }
            print(f"{name}: fd {found['metrics']['fd']:.2f} after {found['images']:,} images", flush=True)
            write_json(
                options.results,
                {"command": command(), "minutes": options.minutes, "runs": dict(sorted(runs.items()))},
            )

    prepare_images(ImageSource(RECIPE["dataset"], resolution=architectures[options.arms[0]][0].image_size))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for each in [pool.submit(do, *arguments) for arguments in todo]:
            each.result()
    print(table(runs, RIVALS))
    print(table(beside_choices(runs), ("flagship", *CHOICES)))


if __name__ == "__main__":
    main()
