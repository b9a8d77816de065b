"""Uploads are decoded in a process of their own: whatever a file does to a decoder, the page goes on.

Each has a new one, one at a time, which the system limits: a pool of processes would import the page again or copy one
that has threads, and would have to be looked after. What a picture takes of memory goes back to the system with it.
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

Picture = UInt8[np.ndarray, "3 size size"]

logger = logging.getLogger(__name__)

_PROGRAM = Path(__file__).with_name("decoder.py")
_LOOK_SECONDS = 0.5  # how often it is asked whether anybody still waits
_turn = threading.Lock()


def decoded(file: BinaryIO, size: int) -> Picture:
    """Decode a picture of which bytes and pixels are few enough.

    Args:
        file: A real one, which the other process reads by itself.
        size: Height and width of what is given [pixels].

    Returns:
        Its center square, upright.

    Raises:
        ValueError: It is too large, no picture, or takes too long; in words.
    """
    if os.fstat(file.fileno()).st_size > MAX_UPLOAD_BYTES:
        raise ValueError(f"the file is larger than the limit of {MAX_UPLOAD_BYTES:,} bytes; upload a smaller one")
    options = {"size": size, "seconds": DECODE_SECONDS, "memory": DECODE_BYTES}
    options |= {"most_pixels": MAX_UPLOAD_PIXELS, "longest_side": MAX_UPLOAD_SIDE, "most_scans": MAX_SCANS}
    with (
        _turn,
        subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", str(_PROGRAM), json.dumps(options)],
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Threads of BLAS would each claim a share of the memory.
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
    if process.returncode or len(said) != 3 * size * size:
        logger.warning("an upload ended its decoder, status %s: %s", process.returncode, complaints[-1000:].decode())
        raise ValueError("decoding the image takes too much time or memory; upload a simpler one")
    return np.frombuffer(bytearray(said), np.uint8).reshape(3, size, size)


def _answer(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    end = time.monotonic() + DECODE_SECONDS
    while True:
        try:
            return process.communicate(timeout=_LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            check_wanted()
            if time.monotonic() > end:
                process.kill()
