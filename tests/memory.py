"""How much memory a piece of code takes, see `benchmarks.memory`; here without importing torch each time."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

from benchmarks import memory
from tests.hub import forked


def _run(command: list[str], env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[str]:
    with TemporaryDirectory() as log:
        done = forked.run(command[1:], env, Path.cwd(), Path(log), timeout=120)
    assert done.returncode == 0, done.stderr
    return done


@contextmanager
def forked_measurements(module: ModuleType = memory) -> Iterator[None]:
    """Let a module, by default `benchmarks.memory`, measure in forked processes."""
    with patch.object(module, "subprocess", SimpleNamespace(run=_run, PIPE=subprocess.PIPE)):
        yield


def peak_megabytes(prepared: str, measured: str) -> float:
    """Do what `benchmarks.memory.peak_megabytes` does, on the CPU."""
    with forked_measurements():
        return memory.peak_megabytes(prepared, measured)
