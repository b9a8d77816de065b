"""Prefetch: compute the next item in a thread while the current one is used."""

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """One item computed ahead of time, identified by a key."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._started: tuple[Hashable, Future[T]] | None = None

    def start(self, key: Hashable, make: Callable[[], T]) -> None:
        """Start computing an item; an earlier one that was not taken is dropped."""
        self._started = key, self._thread.submit(make)

    def take(self, key: Hashable) -> T | None:
        """Wait for and return the item with this key; ``None`` if another one was started.

        Raises:
            Exception: Whatever the computation raised.
        """
        started, self._started = self._started, None
        if started is None:
            return None
        if started[0] != key:
            if not started[1].cancel():
                wait([started[1]])  # its resources must not be used by two computations at once
            return None
        return started[1].result()

    def close(self) -> None:
        """End the thread, after its current computation."""
        self._thread.shutdown(cancel_futures=True)
