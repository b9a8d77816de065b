"""The wheel holds the library and nothing else, and works without optional packages and outside of any clone."""

import json
import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name
from PIL import Image

from fagan_hf.architectures.load import save_architecture
from tests.distribution import PROJECT, ROOT, closure, installed
from tests.small import DISCRIMINATOR, GENERATOR

# Hides modules as if they were not installed, from `import`, `find_spec` and `importlib.metadata`.
HIDE = """
import json, sys
from importlib.metadata import Prepared

modules, distributions = map(set, json.loads(sys.argv[1]))

class Hidden:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in modules else self.finder.find_spec(name, path, target)

    def find_distributions(self, context):
        if context.name is not None and Prepared(context.name).normalized.replace("_", "-") in distributions:
            return iter(())
        return getattr(self.finder, "find_distributions", lambda context: iter(()))(context)

sys.meta_path[:] = [Hidden(finder) for finder in sys.meta_path]
"""

USE_THE_WHEEL = """
wheel, folder = sys.argv[2:]
sys.path.insert(0, wheel)
for name in sorted(modules):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} is not hidden")

import torch
import fagan_hf
from fagan_hf import FAGANPipeline, Generator

assert fagan_hf.__file__.startswith(wheel), fagan_hf.__file__
generator = Generator.from_preset("fagan-32").eval()
generator.save_pretrained(folder)
loaded = Generator.from_pretrained(folder)
latents = torch.randn(2, generator.config.latent_dim)
with torch.inference_mode():
    torch.testing.assert_close(loaded(latents), generator(latents), rtol=0, atol=0)
from pathlib import Path
from fagan_hf.hub.card import write_card
from fagan_hf.hub.repository import save_repository
from fagan_hf.serving import EndpointHandler
save_repository(folder, generator)
assert "# model" in write_card(Path(folder))
assert EndpointHandler(folder)({"inputs": "3"})["seeds"] == [3]
image, = FAGANPipeline(generator=loaded)(num_images=1).images
assert image.size == (32, 32), image.size
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_the_library_only(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    info = f"fagan_hf-{PROJECT['version']}.dist-info"
    assert {name.split("/")[0] for name in names} == {"fagan_hf", info}
    sources = {str(path.relative_to(ROOT).as_posix()) for path in (ROOT / "fagan_hf").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources
    assert f"{info}/licenses/LICENSE" in names


TRAIN_FROM_THE_WHEEL = """
import os, sys
wheel, pictures, architecture = sys.argv[1:]
sys.path.insert(0, wheel)
import fagan_hf
from fagan_hf.cli import main
from fagan_hf.training.recipe_files import our_recipes

assert fagan_hf.__file__.startswith(wheel), fagan_hf.__file__
assert all(str(path).startswith(wheel) for path in our_recipes().values())
small = ["--model", architecture, "--dataset", pictures]
small += ["--cpu-threads", "1", "--log_every_images=16", "--no-streaming"]
assert main(["train", "--recipe", "avatars-32", *small, "--max-images", "16"]) == 0
assert main(["generate", "--model", "runs/avatars-32", "--seeds", "0-3", "--out", "grid.png"]) == 0
fields = {"model": architecture, "dataset": pictures, "max_images": 32, "cpu_threads": 1, "log_every_images": 16}
run = fagan_hf.train("avatars-32", **fields)
assert [line["images"] for line in run.metrics] == [16, 32]
"""


def test_training_from_the_wheel_outside_of_any_clone(wheel: Path, tmp_path: Path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "wheel")
    assert {path.name for path in (tmp_path / "wheel/fagan_hf/training/recipes").iterdir()} == {
        path.name for path in (ROOT / "training/recipes").iterdir()
    }
    (tmp_path / "pictures").mkdir()
    for index in range(20):
        Image.new("RGB", (8, 8), (12 * index, 0, 99)).save(tmp_path / f"pictures/{index}.png")
    save_architecture(tmp_path / "tiny.json", (GENERATOR, DISCRIMINATOR))
    arguments = [str(tmp_path / each) for each in ("wheel", "pictures", "tiny.json")]
    command = [sys.executable, "-I", "-c", TRAIN_FROM_THE_WHEEL, *arguments]
    environment = os.environ | {"FAGAN_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_training_without_its_extra_says_what_to_install(wheel: Path, tmp_path: Path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "wheel")
    hidden = json.dumps([["accelerate", "datasets"], ["accelerate", "datasets"]])
    program = "import runpy; sys.path.insert(0, sys.argv[2]); from fagan_hf.cli import main; "
    program += "raise SystemExit(main(['train', '--recipe', 'avatars-32']))"
    command = [sys.executable, "-I", "-c", f"{HIDE}\n{program}", hidden, str(tmp_path / "wheel")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "training needs accelerate, datasets: pip install 'fagan-hf[train]'" in done.stderr


def test_wheel_works_with_nothing_but_its_dependencies(wheel: Path, tmp_path: Path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "wheel")
    needed = closure(PROJECT["dependencies"]) | {"fagan-hf", "pip"}
    modules = [
        module
        for module, names in metadata.packages_distributions().items()
        if needed.isdisjoint(map(canonicalize_name, names)) and module.isidentifier()
    ]
    assert {"accelerate", "datasets", "matplotlib", "jsonargparse", "dicebear"} <= set(modules)
    hidden = json.dumps([modules, sorted(set(installed()) - needed)])
    arguments = [hidden, str(tmp_path / "wheel"), str(tmp_path / "model")]
    command = [sys.executable, "-I", "-c", HIDE + USE_THE_WHEEL, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
