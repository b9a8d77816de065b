"""Run everything that needs a GPU, in resumable pieces that fit into short sessions.

    python -m benchmarks.gpu --minutes 8 --out results/gpu          # repeat until nothing is left
    python -m benchmarks.gpu --dry-run --out /tmp/gpu               # the same code with tiny models, on any machine

    python -m benchmarks.gpu prepare --out carried                  # elsewhere, with a network: what training needs

Checks come first, then speed measurements, then training. Each result is written when its piece is done; finished
pieces are skipped, and training goes on where the last piece of it ended.
"""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import carried, checks, prepare, speeds
from benchmarks.gpu.training import RUNS, SMALL_RUNS, train_piece
from fagan_hf.training.run.facts import hardware, versions

Piece = Callable[[], Any]


def pieces(is_small: bool) -> dict[str, Piece]:
    """Return all pieces by name, in order."""
    found: dict[str, Piece] = {f"check: {name}": partial(check, is_small) for name, check in checks.CHECKS.items()}
    if not is_small:
        found["peak [TFLOP/s]"] = speeds.peak_rates
        found["profile: fagan-64, batch 64, bf16"] = speeds.profile
    for case in speeds.SMALL_CASES if is_small else speeds.CASES:
        seconds = 0.1 if is_small else 4.0
        found[f"speed: {speeds.name_of(case)}"] = partial(speeds.measure_case, case, seconds)
    for model, batch in speeds.SMALL_COUNTED if is_small else speeds.COUNTED:
        found[f"FLOP of a step: {model}, batch {batch}"] = partial(speeds.flops_of, model, batch)
    if not is_small:
        found["against attn-gan-pytorch"] = speeds.against_peer
    return found


def build_parser() -> argparse.ArgumentParser:
    """Declare the flags."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; pieces that it has are skipped")
    parser.add_argument("--minutes", type=float, default=8.0, help="start no new piece after this time (default: 8)")
    parser.add_argument("--carried", type=Path, help="folder that `prepare` made, for training (default: in --out)")
    parser.add_argument("--only", default="", help="run only the pieces whose name contains this")
    parser.add_argument("--dry-run", action="store_true", help="run the same code with tiny models, on any machine")
    return parser


def main() -> int:
    """Run the remaining pieces, write their results, and report failures."""
    if sys.argv[1:2] == ["prepare"]:
        return prepare.main(sys.argv[2:])
    parser = build_parser()
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --dry-run runs the same code with tiny models")
    options.out.mkdir(parents=True, exist_ok=True)
    folder = options.carried or options.out / "carried"
    carried.use_wheels(folder)
    results = Results(options.out / "gpu.json")
    measurements = pieces(options.dry_run)
    runs = {f"training: {run.model}": run for run in (SMALL_RUNS if options.dry_run else RUNS)}
    waiting = [name for name in (*measurements, *runs) if options.only in name and not results.is_done(name)]
    if resolutions := [run.resolution for name, run in runs.items() if name in waiting]:
        if options.dry_run and options.carried is None:
            prepare.prepare(folder, resolutions, num_avatars=16, needs_wheels=False)
        try:
            carried.check(folder, resolutions)
        except FileNotFoundError as error:
            parser.error(str(error))
    started, failed = time.monotonic(), []
    for name in waiting:
        minutes = options.minutes - (time.monotonic() - started) / 60
        if minutes < 0:
            print(f"out of time; run again to continue with {name!r}")
            return 0
        piece = measurements.get(name) or partial(train_piece, runs[name], folder, options.out, minutes)
        if not results.add(name, piece):
            failed.append(name)
    if failed:
        print(f"{len(failed)} failed: {', '.join(failed)}")
        return 1
    unfinished = [name for name in waiting if not results.is_done(name)]
    print(f"run again to continue with {unfinished[0]!r}" if unfinished else "all pieces are done")
    return 0


class Results:
    """The results of all pieces by name, in a file.

    Args:
        path: The file, written after each piece.
    """

    def __init__(self, path: Path):
        self.path = path
        self.found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.found |= {"hardware": hardware(device, 1), "versions": versions()}

    def is_done(self, name: str) -> bool:
        """Return whether a piece has a result, and nothing is left of it."""
        found = self.found.get(name)
        return found is not None and not (isinstance(found, dict) and found.get("is_unfinished"))

    def add(self, name: str, piece: Piece) -> bool:
        """Run a piece, write its result, and return whether it has not failed."""
        begun = time.monotonic()
        try:
            result = piece()
        except Exception as error:  # a failure must not keep the other pieces from running
            traceback.print_exc()
            failure = {"passed": False, "error": f"{type(error).__name__}: {str(error)[:500]}"}
            is_training = name.startswith("training: ")  # whose state is in its checkpoint: it is tried again
            result = failure | ({"is_unfinished": True} if is_training else {})
        self.found[name] = result
        self.path.write_text(json.dumps(self.found, indent=2) + "\n", encoding="utf-8")
        print(f"{time.monotonic() - begun:5.1f} s  {name}: {json.dumps(result)[:600]}", flush=True)
        return not (isinstance(result, dict) and result.get("passed") is False)


if __name__ == "__main__":
    raise SystemExit(main())
