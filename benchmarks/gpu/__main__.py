"""Run everything that needs a GPU, in resumable pieces that fit into short sessions.

    python -m benchmarks.gpu --minutes 8 --out results/gpu          # repeat until nothing is left
    python -m benchmarks.gpu --dry-run --out /tmp/gpu               # the same code with tiny models, on any machine

Checks come first, then speed measurements. Each result is written when its piece is done; finished pieces are skipped.
"""

import argparse
import json
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import checks, speeds
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
    parser.add_argument("--only", default="", help="run only the pieces whose name contains this")
    parser.add_argument("--dry-run", action="store_true", help="run the same code with tiny models, on any machine")
    return parser


def main() -> int:
    """Run the remaining pieces, write their results, and report failures."""
    parser = build_parser()
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --dry-run runs the same code with tiny models")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "gpu.json"
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    results |= {"hardware": hardware(device, 1), "versions": versions()}
    started, failed = time.monotonic(), []
    for name, piece in pieces(options.dry_run).items():
        if options.only not in name or name in results:
            continue
        if time.monotonic() - started > 60 * options.minutes:
            print(f"out of time; run again to continue with {name!r}")
            return 0
        begun = time.monotonic()
        try:
            results[name] = piece()
        except Exception as error:  # a failure must not keep the other pieces from running
            traceback.print_exc()
            results[name] = {"passed": False, "error": f"{type(error).__name__}: {str(error)[:500]}"}
        if isinstance(results[name], dict) and results[name].get("passed") is False:
            failed.append(name)
        path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        print(f"{time.monotonic() - begun:5.1f} s  {name}: {json.dumps(results[name])[:600]}", flush=True)
    print(f"{len(failed)} failed: {', '.join(failed)}" if failed else "all pieces are done")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
