"""Decode uploads in a separate process, so that a file that crashes the decoder doesn't affect the page."""

import logging
import os
import threading
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8

from fagan_space import child
from fagan_space.limits import (
    DECODE_BYTES,
    DECODE_SECONDS,
    MAX_SCANS,
    MAX_UPLOAD_BYTES,
    MAX_UPLOAD_PIXELS,
    MAX_UPLOAD_SIDE,
)

Picture = UInt8[np.ndarray, "channels size size"]

logger = logging.getLogger(__name__)

_PROGRAM = Path(__file__).with_name("decoder.py")
_turn = threading.Lock()


def decoded(file: BinaryIO, size: int, channels: int = 3) -> Picture:
    """Decode an uploaded image after checking its size; one at a time.

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
    options = {"size": size, "channels": channels, "most_pixels": MAX_UPLOAD_PIXELS}
    options |= {"longest_side": MAX_UPLOAD_SIDE, "most_scans": MAX_SCANS}
    with _turn:
        # Each BLAS thread would reserve part of the limited memory.
        ended = child.run(
            _PROGRAM,
            options,
            seconds=3 * DECODE_SECONDS,
            cpu_seconds=DECODE_SECONDS,
            memory=DECODE_BYTES,
            file=file,
            OPENBLAS_NUM_THREADS="1",
        )
    if ended.status == child.REFUSED:
        raise ValueError(ended.answer.decode())
    if ended.status or len(ended.answer) != channels * size * size:
        logger.warning("an upload ended its decoder, status %s: %s", ended.status, ended.log)
        raise ValueError("decoding the image takes too much time or memory; upload a simpler one")
    return np.frombuffer(bytearray(ended.answer), np.uint8).reshape(channels, size, size)
