"""Run a program of this package in a process of its own, under limits, until its client leaves.

A pool of processes would have to import the page again or fork a multithreaded process, and would need supervision.
When the process ends, its memory is returned to the system, whatever it did.
"""

import atexit
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fagan_space.limited import REFUSED as REFUSED
from fagan_space.work import check_wanted

_LIMITED = Path(__file__).with_name("limited.py")
_LOOK_SECONDS = 0.5  # interval of checks whether the client is still waiting


@dataclass(frozen=True)
class Ended:
    """A program that has ended.

    Attributes:
        status: Its exit status: 0, or `REFUSED` if the answer is an error message; negative if a signal ended it, as
            when it exceeded a limit.
        answer: What it wrote to stdout.
        log: The end of what it wrote to stderr.
    """

    status: int
    answer: bytes
    log: str


def run(
    program: Path,
    options: Mapping[str, Any],
    *,
    seconds: float,
    cpu_seconds: int,
    memory: int,
    file_size: int = 0,
    file: BinaryIO | None = None,
    **variables: str,
) -> Ended:
    """Run a Python program until it ends.

    Args:
        program: The file.
        options: Its only argument, as JSON.
        seconds: It is killed after this time.
        cpu_seconds: Processor time that it may use.
        memory: Private memory that it may use [bytes].
        file_size: Size of each file that it may write [bytes].
        file: A real file with a descriptor that becomes its stdin; by default it is empty.
        **variables: Environment variables, in addition to those of this process.

    Raises:
        GoneError: The client disconnected; the program was killed.
        ValueError: The time limit of a request is exceeded; the program was killed.
    """
    limits = {"cpu_seconds": cpu_seconds, "memory": memory, "file_size": file_size}
    with subprocess.Popen(
        [sys.executable, "-P", "-W", "ignore", str(_LIMITED), json.dumps(limits), str(program), json.dumps(options)],
        stdin=subprocess.DEVNULL if file is None else file,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | variables,
    ) as process:
        atexit.register(process.kill)
        try:
            answer, log = _communicate(process, time.monotonic() + seconds)
        finally:
            process.kill()
            atexit.unregister(process.kill)
    return Ended(process.returncode, answer, log[-1000:].decode(errors="replace"))


def _communicate(process: subprocess.Popen[bytes], end: float) -> tuple[bytes, bytes]:
    while True:
        try:
            return process.communicate(timeout=_LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            check_wanted()
            if time.monotonic() > end:
                process.kill()
