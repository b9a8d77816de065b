"""Being asked to end: Ctrl-C, preemption, and a launcher that dies."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# A terminal sends Ctrl-C to a launcher and to the run, and the launcher passes it on: those are one wish.
SAME_WISH_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_PARENT = os.getppid()  # when this is imported: the launcher, if it lives


class StopRequest:
    """Remembers that the run was asked to end; whoever asks a second time ends it at once."""

    def __init__(self) -> None:
        self.is_made = False
        self._made_at = 0.0
        self._before: dict[int, Any] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM for requests inside of the block; in another thread than the main one nothing."""
        if threading.current_thread() is not threading.main_thread():  # where Python allows no handlers
            yield
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._take)
        _outlive_no_launcher()
        try:
            yield
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.is_made and now - self._made_at > SAME_WISH_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        elif not self.is_made:
            self.is_made, self._made_at = True, now


def _outlive_no_launcher() -> None:
    """Let the kernel ask this process to end when its launcher dies, who does not pass every signal on.

    Otherwise a run whose ``accelerate launch`` was killed would train on, alone and unseen. Linux only; a run without a
    launcher may outlive its shell.
    """
    # What launchers set for their children, and nobody in a shell.
    is_launched = "LOCAL_RANK" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ
    if sys.platform == "linux" and is_launched:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != _PARENT:  # it died before the kernel was asked
            signal.raise_signal(signal.SIGTERM)
