"""Values that hold for what runs inside a `with` block, in the thread that entered it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Setting(Generic[T]):
    """A context variable that costs nothing while nobody has set it.

    `torch.compile` can't trace a context variable and would break its graph at every read. A plain counter it can: as
    long as no thread is inside of `holding`, the variable is not touched.

    Args:
        name: For error messages of Python's own.
        default: What holds outside.
    """

    def __init__(self, name: str, default: T):
        self._default = default
        self._variable: ContextVar[T] = ContextVar(name, default=default)
        self._holders = 0
        self._lock = Lock()

    def get(self) -> T:
        """Give what holds here."""
        return self._variable.get() if self._holders else self._default

    @contextmanager
    def holding(self, value: T) -> Iterator[None]:
        """Let a value hold inside of this block, in this thread."""
        token = self._variable.set(value)
        with self._lock:
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
            self._variable.reset(token)
