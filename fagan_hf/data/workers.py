"""Work on the images of a dataset in several processes, in order."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar

from fagan_hf.data.listing import Content, Listing
from fagan_hf.utils.devices import available_cores

CHUNK_IMAGES = 64
_FEW_IMAGES = 256  # up to this many, starting processes takes longer than decoding the images

R = TypeVar("R")


def map_in_processes(
    function: Callable[[Mapping[int, Content]], R],
    listing: Listing,
    positions: Sequence[int],
    num_processes: int | None = None,
) -> Generator[R]:
    """Call a function on the contents of images, in chunks.

    Args:
        function: Called with the contents of up to 64 images by position; must be picklable.
        listing: Where the contents are.
        positions: Which images, in the order of the results.
        num_processes: Number of processes; default one per available core. A few images need no further process.

    Yields:
        The result of each chunk, in order.

    Raises:
        ChildProcessError: A process was killed.
    """
    num_processes = num_processes or available_cores()
    chunks = [positions[start : start + CHUNK_IMAGES] for start in range(0, len(positions), CHUNK_IMAGES)]
    if num_processes == 1 or len(positions) < _FEW_IMAGES:
        for chunk in chunks:
            yield function({at: listing.contents(at, at + 1)[0] for at in chunk})
        return
    with _process_pool(num_processes) as pool:
        waiting: deque[Future[R]] = deque()
        for chunk in chunks:
            contents = {at: listing.contents(at, at + 1)[0] for at in chunk}
            with _hidden_main():
                waiting.append(pool.submit(function, contents))
            if len(waiting) > 2 * num_processes:  # enough to keep all busy; more would only use memory
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()


@contextmanager
def _process_pool(num_processes: int) -> Iterator[ProcessPoolExecutor]:
    """Start fresh processes: a fork of a process in which torch holds threads, locks or CUDA can hang."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_processes, mp_context=context, initializer=_begin_worker)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "A process that was preparing images was killed, perhaps because memory ran out; try num_processes=1."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _hidden_main() -> Iterator[None]:
    """Keep new processes from running the caller's script again.

    A fresh process imports its parent's main module, to find functions defined there. Ours are defined here, and a
    script without `if __name__ == "__main__"` would recursively start processes, and fail.
    """
    main: Any = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, and exit with it: otherwise workers would wait forever after it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
