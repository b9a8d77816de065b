from pathlib import Path

import jaxtyping
import numpy as np
import pytest
from PIL import Image

from fagan_hf.architectures.presets import PRESETS
from fagan_hf.training.recipe import Recipe
from tests.short_runs import take_shortcuts
from tests.small import DISCRIMINATOR, GENERATOR

STEPS = Path(__file__).with_name("step")


@pytest.fixture(autouse=True)
def _shapes_are_checked_in_single_steps(request, monkeypatch):
    """Whole runs take a third longer with the shapes of every call checked, and have the shapes of their steps."""
    if STEPS not in request.path.parents:
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def pictures(tmp_path):
    """A folder of 20 images."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(20):
        pixels = random.integers(0, 256, (12, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    return folder


@pytest.fixture
def classes(tmp_path):
    """Folders of 12 red and of 8 blue images."""
    for name, color, count in (("red", (200, 30, 30), 12), ("blue", (30, 30, 200), 8)):
        folder = tmp_path / "classes" / name
        folder.mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (10, 10), tuple(channel + index for channel in color)).save(folder / f"{index}.png")
    return tmp_path / "classes"


@pytest.fixture
def make_recipe(tmp_path, pictures, monkeypatch):
    """Recipes of a very short run: 8x8 pixels, six steps."""
    monkeypatch.setenv("FAGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(PRESETS, "tiny", (GENERATOR, DISCRIMINATOR))
    take_shortcuts(monkeypatch.setattr)

    def make(**changes):
        fields = {
            "name": "try",
            "model": "tiny",
            "dataset": str(pictures),
            "output_dir": str(tmp_path / "runs"),
            "batch_size": 4,
            "max_images": 24,
            "log_every_images": 4,
            "sample_every_images": 8,
            "checkpoint_every_images": 8,
            "cpu_threads": 1,
        }
        return Recipe(**fields | changes)

    return make
