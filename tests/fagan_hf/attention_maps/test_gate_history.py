import json

import numpy as np
import pytest

from fagan_hf.attention_maps import read_gates


def write(folder, lines):
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_gates_over_the_images_seen(tmp_path):
    lines = [
        {"images": 32, "generator.layers.0.alpha": 0.0, "discriminator.layers.1.gamma": -0.1, "generator_loss": 1.0},
        {"images": 64, "generator.layers.0.alpha": 0.5, "generator_loss": 2.0},
    ]
    history = read_gates(write(tmp_path / "run", lines))
    assert history.images.tolist() == [32, 64]
    assert list(history.gates) == ["generator.layers.0.alpha", "discriminator.layers.1.gamma"]
    np.testing.assert_array_equal(history.gates["generator.layers.0.alpha"], [0.0, 0.5])
    np.testing.assert_array_equal(history.gates["discriminator.layers.1.gamma"], [-0.1, np.nan])


def test_a_run_without_history(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no history: metrics\.jsonl is missing or empty"):
        read_gates(write(tmp_path / "run", []))


def test_a_run_without_gates(tmp_path):
    with pytest.raises(ValueError, match="has no gates in its history"):
        read_gates(write(tmp_path / "run", [{"images": 32, "generator_loss": 1.0}]))


GATE = "generator.layers.0.alpha"


@pytest.mark.parametrize(
    "line",
    [{GATE: 0.1}, {"images": 64, GATE: "much"}, {"images": 64, GATE: [1]}, {"images": 10**400, GATE: 0.1}, [1]],
    ids=["no images", "text", "list", "number", "no object"],
)
def test_a_history_that_is_none(tmp_path, line):
    """It may come from a repository of somebody else."""
    with pytest.raises(ValueError, match="is not that of a run"):
        read_gates(write(tmp_path / "run", [{"images": 32, GATE: 0.0}, line]))


def test_a_history_that_is_nested_too_deeply(tmp_path):
    folder = write(tmp_path / "run", [{"images": 32, GATE: 0.0}])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("[" * 100_000 + "\n" + "{}\n")
    with pytest.raises(ValueError, match=r"line 2 of .* is not valid JSON"):
        read_gates(folder)
