import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks import pixel_distance
from fagan_hf.cards import write_card
from fagan_hf.measurements import read_measurements
from fagan_hf.models import Generator
from fagan_hf.repository import save_repository, weights_hash
from tests.small import GENERATOR, with_gates


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for index in range(120):
        Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{index:03d}.png")
    return folder


def test_a_number_reaches_the_card(tmp_path, monkeypatch, pictures):
    save_repository(tmp_path / "run", with_gates(Generator(GENERATOR)))
    monkeypatch.setenv("FAGAN_CACHE", str(tmp_path / "cache"))
    arguments = [str(tmp_path / "run"), "--dataset", str(pictures), "--num_images", "60", "--write"]
    monkeypatch.setattr(sys, "argv", ["pixel_distance.py", *arguments])
    pixel_distance.main()
    [measured] = read_measurements(tmp_path / "run")
    assert measured.type == "fd_pixelpca48_60"
    assert measured.generator == weights_hash(tmp_path / "run")
    assert measured.value > measured.floor > 0
    assert f"`fd_pixelpca48_60`), lower is better | {measured.value:.4g} |" in write_card(tmp_path / "run")


def test_equal_sets_are_at_distance_zero_and_a_shift_is_its_square():
    features = np.random.default_rng(0).normal(size=(200, 3))
    assert pixel_distance.frechet_distance(features, features) == pytest.approx(0, abs=1e-9)
    assert pixel_distance.frechet_distance(features, features + np.array([2, 0, 0])) == pytest.approx(4)
