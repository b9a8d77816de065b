"""The demo's page, started as a separate process as for users; for load tests and the test suite."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parents[1]
_SECONDS_TO_START = 120


class Served(NamedTuple):
    """A running page."""

    url: str
    pid: int


def free_port() -> int:
    """Find a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(model: str | Path, uploads: Path, space: Path = ROOT / "space", **environment: str) -> Iterator[Served]:
    """Run a Space's app.py on a model, with its files in ``uploads``; yields its URL and process id."""
    port = free_port()
    environment = os.environ | {
        "FAGAN_MODEL": str(model),
        "GRADIO_TEMP_DIR": str(uploads),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    log = uploads.parent / f"{uploads.name}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=space, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url, process, log)
        yield Served(url, process.pid)
    finally:
        process.terminate()
        process.wait(30)


def _wait(url: str, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < end and process.poll() is None:
        try:
            with urlopen(url):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"the page did not start:\n{log.read_text()}")
