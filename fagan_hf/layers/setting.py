"""Settings that apply inside a `with` block, in the thread that entered it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Setting(Generic[T]):
    """A context variable that costs nothing while it is not set.

    `torch.compile` can't trace a context variable and would break its graph at every read. It can trace a plain
    counter: as long as no thread is inside `holding`, the variable is not read.

    Args:
        name: Name of the context variable, for Python's own error messages.
        default: Value outside of any block.
    """

    def __init__(self, name: str, default: T):
        self._default = default
        self._variable: ContextVar[T] = ContextVar(name, default=default)
        self._holders = 0
        self._lock = Lock()

    def get(self) -> T:
        """Return the current value."""
        return self._variable.get() if self._holders else self._default

    @contextmanager
    def holding(self, value: T) -> Iterator[None]:
        """Set a value inside this block, in this thread."""
        token = self._variable.set(value)
        with self._lock:
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
            self._variable.reset(token)
