"""Cancellation: work stops when its client has disconnected, or when it takes too long.

A tab's function calls `check_wanted` between its steps. A function that runs in another process, as on ZeroGPU, can't
see whether the client is still connected; there the duration of the GPU lease is the limit.
"""

import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

from fagan_space.limits import MAX_SECONDS


class GoneError(Exception):
    """The client disconnected, or the server is shutting down."""


@dataclass(frozen=True)
class Work:
    """One request being processed.

    Attributes:
        is_wanted: Returns whether its client is still waiting.
        until: Deadline [monotonic seconds].
    """

    is_wanted: Callable[[], bool]
    until: float = field(default_factory=lambda: time.monotonic() + MAX_SECONDS)


CURRENT: ContextVar[Work | None] = ContextVar("CURRENT", default=None)


def check_wanted() -> None:
    """Raise if the current request should stop.

    Raises:
        GoneError: The client disconnected.
        ValueError: The time limit of a request is exceeded.
    """
    work = CURRENT.get()
    if work is None:
        return
    if not work.is_wanted():
        raise GoneError("The client disconnected, so the work was canceled.")
    if time.monotonic() > work.until:
        raise ValueError(f"this exceeded the limit of {MAX_SECONDS} seconds per request; ask for less at a time")
