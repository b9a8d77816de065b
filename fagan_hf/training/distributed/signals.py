"""Stop requests: Ctrl-C, preemption, and a launcher that dies."""

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

# A terminal sends Ctrl-C to both launcher and run, and the launcher forwards it: together they are one request.
DUPLICATE_SIGNAL_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_PARENT = os.getppid()  # at import time: the launcher, if it is alive


class StopRequest:
    """Remembers that the run was asked to stop; a second request ends it immediately."""

    def __init__(self) -> None:
        self.is_made = False
        self._made_at = 0.0
        self._before: dict[int, Any] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Treat SIGINT and SIGTERM as requests inside the block; outside the main thread this does nothing."""
        if threading.current_thread() is not threading.main_thread():  # Python allows no handlers there
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
        if self.is_made and now - self._made_at > DUPLICATE_SIGNAL_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        elif not self.is_made:
            self.is_made, self._made_at = True, now


def _outlive_no_launcher() -> None:
    """Have the kernel signal this process when its launcher dies, because launchers don't forward every signal.

    Otherwise a run whose ``accelerate launch`` was killed would keep training unnoticed. Linux only; a run without a
    launcher may outlive its shell.
    """
    # Launchers set these for their children; an interactive shell does not.
    is_launched = "LOCAL_RANK" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ
    if sys.platform == "linux" and is_launched:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != _PARENT:  # it died before the kernel was asked
            signal.raise_signal(signal.SIGTERM)
