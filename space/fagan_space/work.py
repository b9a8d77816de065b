"""Work that ends when nobody waits for it any more, or when it takes too long.

A tab's function calls `check_wanted` between its steps. Where a function runs in another process, as on ZeroGPU,
nothing is known of the client there, and the time that the card is lent for is the limit.
"""

import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

from fagan_space.limits import MAX_SECONDS


class GoneError(Exception):
    """The client went away, or the server is ending."""


@dataclass(frozen=True)
class Work:
    """One request that is being worked on.

    Attributes:
        is_wanted: Returns whether its client is still there.
        until: When its time is over [monotonic seconds].
    """

    is_wanted: Callable[[], bool]
    until: float = field(default_factory=lambda: time.monotonic() + MAX_SECONDS)


CURRENT: ContextVar[Work | None] = ContextVar("CURRENT", default=None)


def check_wanted() -> None:
    """Give up what nobody waits for.

    Raises:
        GoneError: The client has gone.
        ValueError: The time for one request is over.
    """
    work = CURRENT.get()
    if work is None:
        return
    if not work.is_wanted():
        raise GoneError("The client disconnected, so the work was canceled.")
    if time.monotonic() > work.until:
        raise ValueError(f"this exceeded the limit of {MAX_SECONDS} seconds per request; ask for less at a time")
