"""Make the next thing in a thread while the present one is used."""

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """One thing that is made ahead of its time, by a key that says what it is."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._started: tuple[Hashable, Future[T]] | None = None

    def start(self, key: Hashable, make: Callable[[], T]) -> None:
        """Begin to make something; what was made before and not taken is forgotten."""
        self._started = key, self._thread.submit(make)

    def take(self, key: Hashable) -> T | None:
        """Give what was begun under this key, waiting for it; ``None`` if that was another one.

        Raises:
            Exception: What making it raised.
        """
        started, self._started = self._started, None
        if started is None:
            return None
        if started[0] != key:
            if not started[1].cancel():
                wait([started[1]])  # two at a time would be one too many for whatever it uses
            return None
        return started[1].result()

    def close(self) -> None:
        """End the thread, when what it is making is made."""
        self._thread.shutdown(cancel_futures=True)
