"""The GPU benchmarks run with tiny models if there is no GPU."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch

from benchmarks.gpu import carried, parts, prepare
from benchmarks.gpu.training import SMALL_RUNS, train_piece
from fagan_hf.data.image_source import ImageSource
from fagan_hf.data.prepare import prepare_images
from tests.hub import forked
from tests.short_runs import take_shortcuts

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
    assert results["training: fagan-32"]["images"] == 8
    assert "run again to continue with 'training: fagan-32'" in done.stdout
    again = kit("--dry-run", "--out", tmp_path)
    assert "check:" not in again.stdout  # finished pieces are skipped
    assert "all pieces are done" in again.stdout
    trained = json.loads((tmp_path / "gpu.json").read_text())["training: fagan-32"]
    assert (trained["images"], trained["images_of_this_piece"]) == (16, 8)
    assert (tmp_path / trained["samples"]).is_file()


def test_it_goes_on_where_time_ran_out(tmp_path):
    done = kit("--dry-run", "--out", tmp_path, "--minutes", "0")
    assert done.returncode == 0
    assert "out of time; run again to continue with 'check: no_reading_back'" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_to_do(tmp_path):
    done = kit("--out", tmp_path)
    assert done.returncode == 2
    assert "--dry-run" in done.stderr


def weights(folder):
    files = sorted((folder / "runs/fagan-32/checkpoints").glob("images-*"))[-1].glob("*.safetensors")
    return {path.name: path.read_bytes() for path in files}


def test_pieces_on_two_machines_train_as_one(tmp_path, monkeypatch):
    take_shortcuts(monkeypatch.setattr)
    folder = tmp_path / "carried"
    prepare.prepare(folder, [32], num_avatars=8, needs_wheels=False)
    [run] = SMALL_RUNS
    train_piece(replace(run, piece_images=None), folder, tmp_path / "whole", minutes=10)
    first = train_piece(run, folder, tmp_path / "here", minutes=10)
    assert first["is_unfinished"]
    shutil.copytree(tmp_path / "here/parts-fagan-32", tmp_path / "there/parts-fagan-32")
    last = train_piece(run, folder, tmp_path / "there", minutes=10)
    assert (last["images"], last["is_unfinished"]) == (16, False)
    assert weights(tmp_path / "there") == weights(tmp_path / "whole")


def test_carried_avatars_are_those_of_the_library_to_the_bit(tmp_path):
    prepare.prepare(tmp_path, [16], num_avatars=8, needs_wheels=False)
    carried_images = prepare_images(ImageSource(str(tmp_path / "avatars-16.zip"), resolution=16))
    drawn = prepare_images(ImageSource("avatars", resolution=16, num_avatars=8))
    assert np.array_equal(carried_images.array, drawn.array)
    assert carried_images.content == drawn.content  # so a run may go on with either
    assert "CC BY 4.0" in (tmp_path / prepare.ATTRIBUTION).read_text()


def test_a_folder_that_lacks_images_or_packages_says_what_makes_them(tmp_path, monkeypatch):
    monkeypatch.setitem(carried.PACKAGES, "nothing-of-this-name", "nothing_of_this_name")
    with pytest.raises(FileNotFoundError, match=r"avatars-64.zip.*wheels/nothing-of-this-name.*gpu prepare --out"):
        carried.check(tmp_path, [64])


def test_a_lacking_folder_ends_the_command(tmp_path):
    done = kit("--dry-run", "--out", tmp_path, "--carried", tmp_path / "elsewhere")
    assert done.returncode == 2
    assert "elsewhere lacks avatars-32.zip" in done.stderr


def test_parts_are_small_and_checked(tmp_path):
    (tmp_path / "from/a").mkdir(parents=True)
    (tmp_path / "from/a/b").write_bytes(os.urandom(5000))
    written = parts.split(tmp_path / "from", ["a", "missing"], tmp_path / "parts", "all", part_bytes=2048)
    assert len(written) > 2
    assert all(path.stat().st_size <= 2048 for path in written)
    parts.join(tmp_path / "parts", "all", tmp_path / "to")
    assert (tmp_path / "to/a/b").read_bytes() == (tmp_path / "from/a/b").read_bytes()
    written[1].write_bytes(bytes(2048))
    with pytest.raises(ValueError, match=r"all-001.part does not match its hash"):
        parts.join(tmp_path / "parts", "all", tmp_path / "to")
    written[1].unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks all-001.part; copy all"):
        parts.join(tmp_path / "parts", "all", tmp_path / "to")
