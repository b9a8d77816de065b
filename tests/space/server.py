"""The page as it is started for people: a process of its own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parents[2]
_SECONDS_TO_START = 120


def free_port() -> int:
    """Find a port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(model: str | Path, uploads: Path, space: Path = ROOT / "space", **environment: str) -> Iterator[str]:
    """Run a Space's app.py on a model, with its files in ``uploads``; give its address."""
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
        yield url
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
