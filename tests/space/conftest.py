import os
import subprocess
from types import SimpleNamespace

import pytest
import torch

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

from fagan_hf.hub.repository import DIRECTIONS, save_repository
from fagan_hf.latent_space.directions import Directions
from fagan_hf.models import Discriminator, Generator
from tests.hub import forked
from tests.small import DISCRIMINATOR, GENERATOR, with_gates


def _start(command, env, **options):
    """Start a page without importing torch, unless a package must be imported before it, as in test_zero_gpu."""
    start = subprocess.Popen if os.pathsep in env["PYTHONPATH"] else forked.popen
    return start(command, env=env, **options)


@pytest.fixture(scope="session", autouse=True)
def _pages_start_quickly():
    with pytest.MonkeyPatch.context() as patch:
        module = SimpleNamespace(Popen=_start, STDOUT=subprocess.STDOUT)
        patch.setattr("benchmarks.serving.subprocess", module)
        yield


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A small model with a discriminator and two directions."""
    folder = tmp_path_factory.mktemp("space") / "model"
    torch.manual_seed(0)
    save_repository(folder, with_gates(Generator(GENERATOR)), with_gates(Discriminator(DISCRIMINATOR)))
    Directions(("beard", "hair=red"), torch.nn.functional.normalize(torch.randn(2, 8)), (0.2, 0.8)).save(
        folder / DIRECTIONS
    )
    return folder


@pytest.fixture(scope="session")
def attacker(folder, tmp_path_factory):
    """An attacker on a page of the small model."""
    from tests.space.hostile import besieged

    with besieged(folder, tmp_path_factory.mktemp("grounds")) as attacker:
        yield attacker


@pytest.fixture(scope="session")
def model(folder):
    from fagan_space.models import load

    return load(str(folder))
