"""Show work as it goes on: a function's reports, and then its result, as a generator."""

import contextvars
import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

Report = TypeVar("Report")
Result = TypeVar("Result")

_PAUSE = 0.3  # between two reports that are passed on [seconds]: a browser can't show more of them


def in_steps(work: Callable[[Callable[[Report], None]], Result]) -> Iterator[Report | Result]:
    """Run a function in a thread; yield what it reports, newest only, and at last what it returns.

    Args:
        work: Called with a function to report with; its exceptions are raised here. It sees the caller's context, so
            `check_wanted` stops it when the visitor has gone.
    """
    news: queue.Queue[Report] = queue.Queue()
    result: list[Result] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work(news.put))
        except BaseException as error:  # raised again where it can be told
            failure.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True, name="in steps")
    thread.start()
    while thread.is_alive():
        thread.join(_PAUSE)
        newest = None
        while not news.empty():
            newest = news.get()
        if newest is not None and thread.is_alive():
            yield newest
    if failure:
        raise failure[0]
    yield result[0]
