"""A Hub for each test, and real clients in processes of their own."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.hub.server import Hub

ROOT = Path(__file__).parents[2]
ALICE = "hf_" + "AliceWritesOnlyToTheHubOfTestsAAAA"
BOB = "hf_" + "BobWritesOnlyToTheHubOfTestsBBBBBB"
READER = "hf_" + "AliceReadsOnlyFromTheHubOfTestsRRR"
STRANGER = "hf_" + "NobodyGaveThisTokenToAnybodySSSSSS"


@pytest.fixture
def hub():
    with Hub(tokens={ALICE: "alice", BOB: "bob"}, readers={READER: "alice"}) as hub:
        yield hub
    assert hub.errors == []


@pytest.fixture
def client(hub, tmp_path):
    """Run Python in a process of its own: code if given a string, arguments of the interpreter if given a list."""

    def run(code_or_args, token=ALICE, check=True, cache="cache", **env):
        arguments = ["-c", textwrap.dedent(code_or_args)] if isinstance(code_or_args, str) else code_or_args
        return _run([sys.executable, *arguments], hub.environment(token, cache=tmp_path / cache) | env, check)

    return run


@pytest.fixture
def hf(hub, tmp_path):
    """Run the ``hf`` command."""

    def run(*args, token=ALICE, check=True, cache="cache", **env):
        command = [Path(sys.executable).with_name("hf"), *args]
        return _run(command, hub.environment(token, cache=tmp_path / cache) | env, check)

    return run


def _run(command, env, check):
    done = subprocess.run([*map(str, command)], env=env, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert not check or done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done
