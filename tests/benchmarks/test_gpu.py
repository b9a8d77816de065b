"""The GPU benchmarks run with tiny models if there is no GPU."""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from tests.hub import forked

ROOT = Path(__file__).parents[2]


def kit(*arguments):
    with TemporaryDirectory() as log:
        return forked.run(["-m", "benchmarks.gpu", *map(str, arguments)], {**os.environ}, ROOT, Path(log), timeout=240)


def test_the_dry_run_does_every_piece_once(tmp_path):
    done = kit("--dry-run", "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "gpu.json").read_text())
    checks = {name: each["passed"] for name, each in results.items() if name.startswith("check: ")}
    assert checks["check: no_reading_back"]
    assert checks["check: gradients_as_on_cpu"]
    [speed] = [each for name, each in results.items() if name.startswith("speed: ")]
    assert speed["images_per_second"] > 0
    assert results["FLOP of a step: fagan-32, batch 4"] > 1e8
    again = kit("--dry-run", "--out", tmp_path)
    assert "check:" not in again.stdout  # finished pieces are skipped


def test_it_goes_on_where_time_ran_out(tmp_path):
    done = kit("--dry-run", "--out", tmp_path, "--minutes", "0")
    assert done.returncode == 0
    assert "out of time; run again to continue with 'check: no_reading_back'" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_to_do(tmp_path):
    done = kit("--out", tmp_path)
    assert done.returncode == 2
    assert "--dry-run" in done.stderr
