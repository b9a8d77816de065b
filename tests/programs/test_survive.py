"""A run that is killed and restarted ends like an undisturbed one; more kills are in benchmarks/survive.py."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.survive import RECIPE, Kill, compare, compare_names, plan, survive
from tests.hub import forked

AT_ANY_MOMENT, AT_A_CHECKPOINT = "any moment", "checkpoint"
CHECKPOINT = 32
# 3 and 5 steps, where checkpoints are 4 apart: half of what the benchmark trains, and in the same proportions.
SHORT = {"log_every_images": 24, "sample_every_images": 40, "checkpoint_every_images": CHECKPOINT}
TRAIN = f"""
import sys
sys.path.insert(0, {str(Path.cwd())!r})
from fagan_hf.training.command import main
from tests.short_runs import take_shortcuts
take_shortcuts()
main()
"""


@pytest.mark.parametrize(
    ("processes", "kills"),
    [
        (
            1,
            [Kill(AT_A_CHECKPOINT, 0.1, checkpoint=2), Kill(AT_ANY_MOMENT, 0.4)],
        ),
        (2, [Kill(AT_ANY_MOMENT, 0.9, victim=1)]),
    ],
)
def test_a_killed_run_ends_as_one_left_alone(tmp_path, monkeypatch, processes, kills):
    def rank(process):
        """Tell a forked process's rank, which its environment in /proc doesn't have."""
        name = process.name()
        return int(name.removeprefix("rank ")) if name.startswith("rank ") else None

    def start(command, **options):
        """Start without importing torch each time, when kills test nothing."""
        return forked.popen([script if each == "training/train.py" else each for each in command], **options)

    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    monkeypatch.setattr("benchmarks.survive.subprocess", SimpleNamespace(Popen=start))
    monkeypatch.setattr("benchmarks.survive.CHECKPOINT", CHECKPOINT)
    monkeypatch.setattr("benchmarks.survive.RECIPE", RECIPE | SHORT)
    monkeypatch.setattr("benchmarks.survive._rank", rank)
    monkeypatch.setattr("benchmarks.survive.POLL_SECONDS", 0.003)  # writing a checkpoint took 13 ms and more
    found = survive(tmp_path, kills, processes, intervals=1)
    assert found["problems"] == []
    assert found["most_images_redone"] <= CHECKPOINT
    assert found["models_loaded_after_kills"] > 0
    assert sum(found["kills_by_phase"].values()) == len(kills)
    assert all(kind["compared"] > 0 for kind in found["compared"].values())


def test_kills_are_drawn_from_a_seed_and_a_third_is_meant_for_checkpoints():
    kills = plan(50, 2, seed=3)
    assert kills == plan(50, 2, seed=3) != plan(50, 2, seed=4)
    assert sum(kill.when == AT_A_CHECKPOINT for kill in kills) == 17
    assert {kill.victim for kill in kills} == {None, 0, 1}
    assert {kill.victim for kill in plan(9, 1, seed=3)} == {None}


@pytest.fixture
def folders(tmp_path):
    """Two run folders that are equal except for timings."""
    first, second = tmp_path / "first", tmp_path / "second"
    checkpoint = first / "checkpoints/images-00000064"
    checkpoint.mkdir(parents=True)
    save_file({"0.exp_avg": torch.ones(3)}, checkpoint / "generator_optimizer.safetensors")
    (checkpoint / "state.json").write_text(json.dumps({"images_seen": 64, "seconds": 1.0}))
    lines = [{"images": images, "loss": 1 / images, "seconds": 1.0} for images in (8, 16, 24)]
    (first / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shutil.copytree(first, second)
    for path in (second / "metrics.jsonl", second / "checkpoints/images-00000064/state.json"):
        path.write_text(path.read_text().replace('"seconds": 1.0', '"seconds": 2.0'))
    return first, second


def test_equal_but_for_the_clock(folders):
    counts, problems = compare(*folders)
    assert problems == compare_names(*folders) == []
    assert counts["optimizer moments"] == {"compared": 1, "different": 0}
    assert counts["lines of metrics.jsonl"] == {"compared": 3, "different": 0}


def test_a_moment_that_is_off_by_a_bit(folders):
    moments = torch.nextafter(torch.ones(3), torch.full((3,), 2.0))
    path = folders[1] / "checkpoints/images-00000064/generator_optimizer.safetensors"
    save_file({"0.exp_avg": moments}, path)
    counts, problems = compare(*folders)
    assert problems == ["checkpoints/images-00000064/generator_optimizer.safetensors differs in 0.exp_avg"]
    assert counts["optimizer moments"] == {"compared": 1, "different": 1}


def test_a_line_that_is_doubled_and_one_that_is_lost(folders):
    path = folders[1] / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], *lines[1:]]))
    assert compare(*folders)[1] == ["metrics.jsonl differs in line 3, line 4"]
    path.write_text(lines[0] + lines[2])
    assert compare(*folders)[1] == ["metrics.jsonl differs in line 2, line 3"]


def test_a_file_that_is_left_over_and_one_that_is_missing(folders):
    (folders[1] / ".samples.png.123").touch()
    (folders[1] / "metrics.jsonl").unlink()
    assert compare_names(*folders) == ["metrics.jsonl is missing", ".samples.png.123 is left over"]
