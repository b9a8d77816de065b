"""A Hub for each test, and real clients in separate processes."""

import subprocess
import sys
import textwrap
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from PIL import Image

from fagan_hf.architectures.load import save_architecture
from tests.hub import forked
from tests.hub.server import Hub
from tests.small import DISCRIMINATOR, GENERATOR

ROOT = Path(__file__).parents[2]
ALICE = "hf_" + "AliceWritesOnlyToTheHubOfTestsAAAA"
BOB = "hf_" + "BobWritesOnlyToTheHubOfTestsBBBBBB"
READER = "hf_" + "AliceReadsOnlyFromTheHubOfTestsRRR"
STRANGER = "hf_" + "NobodyGaveThisTokenToAnybodySSSSSS"
TRAIN = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from fagan_hf.training.command import main
from tests.short_runs import take_shortcuts
take_shortcuts()
if __name__ == "__main__":
    main()
"""


@pytest.fixture
def hub():
    with Hub(tokens={ALICE: "alice", BOB: "bob"}, readers={READER: "alice"}) as hub:
        yield hub
    assert hub.errors == []


@pytest.fixture
def client(hub, tmp_path):
    """Run Python in a new process: code if given a string, arguments of the interpreter if given a list."""
    return _client(hub, tmp_path, _fork)


@pytest.fixture
def fresh_client(hub, tmp_path):
    """The same in a new interpreter, which has not imported torch."""
    return _client(hub, tmp_path, _run)


def _client(hub, tmp_path, start):
    def run(code_or_args, token=ALICE, check=True, cache="cache", **env):
        arguments = ["-c", textwrap.dedent(code_or_args)] if isinstance(code_or_args, str) else code_or_args
        return start([sys.executable, *arguments], hub.environment(token, cache=tmp_path / cache) | env, check)

    return run


@pytest.fixture
def hf(hub, tmp_path):
    """Run the ``hf`` command."""

    def run(*args, token=ALICE, check=True, cache="cache", **env):
        command = [Path(sys.executable).with_name("hf"), *args]
        return _run(command, hub.environment(token, cache=tmp_path / cache) | env, check)

    return run


@pytest.fixture
def train(hub, tmp_path):
    """Run a training on 20 images of 12x10 with networks for 8x8, in a new process."""
    pictures = tmp_path / "pictures/all"
    pictures.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for index in range(20):
        Image.fromarray(draw.integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(pictures / f"{index:02d}.png")
    save_architecture(tmp_path / "tiny.json", (GENERATOR, DISCRIMINATOR))
    (tmp_path / "train.py").write_text(TRAIN)

    def run(
        *arguments,
        dataset=pictures,
        output_dir="runs",
        is_from_model=False,
        check=True,
        wait=True,
        token=ALICE,
        launcher=(),
    ):
        command = [sys.executable, *launcher, tmp_path / "train.py", *arguments]
        command += ["--dataset", dataset, "--output_dir", tmp_path / output_dir, "--cpu_threads", 1]
        if not is_from_model:  # otherwise set by the model's own recipe
            command += ["--model", tmp_path / "tiny.json", "--batch_size", 4, "--log_every_images", 4]
            command += ["--sample_every_images", 8, "--checkpoint_every_images", 8]
        env = hub.environment(token, cache=tmp_path / f"hub-{output_dir}") | {"FAGAN_CACHE": str(tmp_path / "data")}
        env["OMP_NUM_THREADS"] = "1"
        if wait:
            return _fork(command, env, check)
        return _Training(command, env, tmp_path / "train.log")

    return run


class _Training(forked.Popen):
    """A training that goes on while a test does something else."""

    def __init__(self, command, env, log):
        self.log = log
        with log.open("w") as file:
            super().__init__([*map(str, command[1:])], env, ROOT, file, file)

    def communicate(self, timeout):
        self.wait(timeout)
        return self.log.read_text(), None


def _run(command, env, check):
    done = subprocess.run([*map(str, command)], env=env, cwd=ROOT, capture_output=True, text=True, timeout=120)
    return _checked(done, check)


def _fork(command, env, check):
    with TemporaryDirectory() as log:
        done = forked.run([*map(str, command[1:])], env, ROOT, Path(log), timeout=120)
    return _checked(done, check)


def _checked(done, check):
    assert not check or done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done
