"""Decode uploads in a separate process, so that a file that crashes the decoder doesn't affect the page.

Each upload gets a new process with system-enforced limits, one at a time. A pool of processes would have to import the
page again or fork a multithreaded process, and would need supervision. When the process ends, its memory is returned
to the system.
"""

import atexit
import json
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8

from fagan_space.decoder import REFUSED
from fagan_space.limits import (
    DECODE_BYTES,
    DECODE_SECONDS,
    MAX_SCANS,
    MAX_UPLOAD_BYTES,
    MAX_UPLOAD_PIXELS,
    MAX_UPLOAD_SIDE,
)
from fagan_space.work import check_wanted

Picture = UInt8[np.ndarray, "channels size size"]

logger = logging.getLogger(__name__)

_PROGRAM = Path(__file__).with_name("decoder.py")
_LOOK_SECONDS = 0.5  # interval of checks whether the client is still waiting
_turn = threading.Lock()


def decoded(file: BinaryIO, size: int, channels: int = 3) -> Picture:
    """Decode an uploaded image after checking its size.

    Args:
        file: A real file with a descriptor, which the other process reads.
        size: Height and width of the result [pixels].
        channels: 1 for grayscale, 3 for RGB, 4 for RGBA with premultiplied alpha.

    Returns:
        Its center square, upright.

    Raises:
        ValueError: The image is too large, can't be read, or takes too long; the message is for the visitor.
    """
    if os.fstat(file.fileno()).st_size > MAX_UPLOAD_BYTES:
        raise ValueError(f"the file is larger than the limit of {MAX_UPLOAD_BYTES:,} bytes; upload a smaller one")
    options = {"size": size, "channels": channels, "seconds": DECODE_SECONDS, "memory": DECODE_BYTES}
    options |= {"most_pixels": MAX_UPLOAD_PIXELS, "longest_side": MAX_UPLOAD_SIDE, "most_scans": MAX_SCANS}
    with (
        _turn,
        subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", str(_PROGRAM), json.dumps(options)],
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Each BLAS thread would reserve part of the limited memory.
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"},
        ) as process,
    ):
        atexit.register(process.kill)
        try:
            said, complaints = _answer(process)
        finally:
            process.kill()
            atexit.unregister(process.kill)
    if process.returncode == REFUSED:
        raise ValueError(said.decode())
    if process.returncode or len(said) != channels * size * size:
        logger.warning("an upload ended its decoder, status %s: %s", process.returncode, complaints[-1000:].decode())
        raise ValueError("decoding the image takes too much time or memory; upload a simpler one")
    return np.frombuffer(bytearray(said), np.uint8).reshape(channels, size, size)


def _answer(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    end = time.monotonic() + DECODE_SECONDS
    while True:
        try:
            return process.communicate(timeout=_LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            check_wanted()
            if time.monotonic() > end:
                process.kill()
