"""Prepare the images of a run: each is decoded once, into a cache that training memory-maps.

Example:
    images = prepare_images(ImageSource("avatars", resolution=32, label_columns=("beard",)))
    reals, labels = images.batch([0, 1, 2])  # uint8 [3, 3, 32, 32], float32 [3, 1]
"""

import multiprocessing
import os
import re
import signal
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from tqdm import tqdm

from fagan_hf.data.avatars import draw_avatar
from fagan_hf.data.cache import Images, cache_root, only_one_process, open_cache, write_cache
from fagan_hf.data.decode import UnusableImageError, decode_image
from fagan_hf.data.labels import encode_column
from fagan_hf.data.sources import Content, Drawing, ImageSource, Listing, describe_decoding, fingerprint, list_images
from fagan_hf.utils.devices import available_cores

__all__ = ["ImageSource", "Images", "prepare_images"]

_CHUNK_IMAGES = 64
_FEW_IMAGES = 256  # up to this many, starting processes takes longer than preparing the images
_NAMED_PROBLEMS = 10


def prepare_images(
    source: ImageSource,
    *,
    cache_dir: Path | None = None,
    progress: bool = True,
    num_processes: int | None = None,
) -> Images:
    """Decode, crop and resize every image of a source, or open the cache of an earlier call.

    Args:
        source: What to read and how to preprocess it.
        cache_dir: Folder of caches; default `$FAGAN_CACHE`, else `~/.cache/fagan_hf`.
        progress: Whether to show a progress bar on stderr.
        num_processes: Number of decoding processes; default one per available core.

    Returns:
        The images, memory-mapped.

    Raises:
        ValueError: Some images can't be used (lists the first ten, their number, and what to try), there are no
            images, or an unknown style, split or column.
        FileNotFoundError: No such folder, or no such dataset on the Hub.
        ImportError: A package of the extra `train` is missing.
        OSError: The disk is full; says how many bytes are needed.
    """
    if num_processes is not None and num_processes < 1:
        raise ValueError(f"num_processes must be at least 1, got {num_processes}")
    listing = list_images(source)
    identity = fingerprint(source, listing.identity)
    name = re.sub(r"[^\w.-]+", "-", listing.facts["dataset"]).strip(".-")[-80:]
    folder = cache_root(cache_dir) / f"{name}-{identity[:16]}"
    images = open_cache(folder)
    if images is not None:
        return images
    with only_one_process(folder, tell=progress):
        images = open_cache(folder)  # written by the process we waited for
        if images is None:
            about = {
                "fingerprint": identity,
                "description": {**listing.facts, **_describe(source, listing)},
            }
            images = _write(folder, source, listing, about, progress, num_processes or available_cores())
    return images


def _write(
    folder: Path,
    source: ImageSource,
    listing: Listing,
    about: dict[str, Any],
    progress: bool,
    num_processes: int,
) -> Images:
    label_names, labels = _encode_labels(source, listing)
    problems = _Problems(listing)

    def chunks() -> Generator[np.ndarray]:
        with tqdm(total=listing.count, desc=listing.action, unit="img", disable=not progress) as bar:
            for start, prepared in _prepare_all(source, listing, num_processes):
                problems.add(start, prepared)
                yield prepared.images
                bar.update(prepared.count)
        problems.raise_any()  # before the cache is complete

    shape = (listing.count, 3, source.resolution, source.resolution)
    with closing(chunks()) as stream:  # in any case, the processes end before this returns
        return write_cache(folder, stream, shape=shape, labels=labels, about={**about, "label_names": label_names})


def _encode_labels(source: ImageSource, listing: Listing) -> tuple[list[str], np.ndarray]:
    names: list[str] = []
    parts = [np.zeros((listing.count, 0), np.float32)]
    for column in source.label_columns:
        column_names, values = encode_column(column, listing.columns[column]())
        names += column_names
        parts.append(values)
    return names, np.concatenate(parts, axis=1)


def _describe(source: ImageSource, listing: Listing) -> dict[str, Any]:
    """Describe for a card how many images were prepared, and how."""
    is_drawn = isinstance(next(iter(listing.contents(0, 1))), Drawing)
    drawn = f"drawn at {source.resolution}x{source.resolution}"
    preprocessing = drawn if is_drawn else describe_decoding(source)
    return {
        "count": listing.count,
        "resolution": source.resolution,
        "preprocessing": preprocessing,
        "options": source.options(),
    }


class _Problems:
    """Collect the images that can't be used, by name."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._lines: list[str] = []
        self._hints: dict[str, None] = {}  # used as an ordered set
        self._first: UnusableImageError | None = None

    def add(self, start: int, prepared: "_Prepared") -> None:
        for offset, error in prepared.errors:
            self._lines.append(f"  {self._listing.name(start + offset)} {error}")
            self._hints[error.hint] = None
            self._first = self._first or error

    def raise_any(self) -> None:
        if not self._lines:
            return
        more = len(self._lines) - _NAMED_PROBLEMS
        raise ValueError(
            "\n".join(
                [
                    f"{len(self._lines)} of {self._listing.count} images can't be used:",
                    *self._lines[:_NAMED_PROBLEMS],
                    *([f"  and {more} more"] if more > 0 else []),
                    *self._hints,
                ]
            )
        ) from self._first


# The work, in this process or in many.


@dataclass
class _Prepared:
    """The result of a chunk: the usable images, and the errors of the others by offset."""

    count: int
    images: np.ndarray
    errors: list[tuple[int, UnusableImageError]] = field(default_factory=list)


def _prepare_all(source: ImageSource, listing: Listing, num_processes: int) -> Iterator[tuple[int, _Prepared]]:
    """Prepare chunk after chunk, in order, each with the position of its first image."""
    starts = range(0, listing.count, _CHUNK_IMAGES)
    if num_processes == 1 or listing.count < _FEW_IMAGES:
        for start in starts:
            yield start, _prepare_chunk(source, listing.contents(start, start + _CHUNK_IMAGES))
        return
    with _process_pool(num_processes) as pool:
        waiting: deque[tuple[int, Future[_Prepared]]] = deque()
        for start in starts:
            contents = listing.contents(start, start + _CHUNK_IMAGES)
            with _hidden_main():
                waiting.append((start, pool.submit(_prepare_chunk, source, contents)))
            if len(waiting) > 2 * num_processes:  # enough to keep all busy; more would only use memory
                position, future = waiting.popleft()
                yield position, future.result()
        for position, future in waiting:
            yield position, future.result()


def _prepare_chunk(source: ImageSource, contents: Sequence[Content]) -> _Prepared:
    images, errors = [], []
    for offset, content in enumerate(contents):
        try:
            images.append(_prepare(source, content))
        except UnusableImageError as error:
            errors.append((offset, error))
    empty = np.zeros((0, 3, source.resolution, source.resolution), np.uint8)
    return _Prepared(len(contents), np.stack(images) if images else empty, errors)


def _prepare(source: ImageSource, content: Content) -> np.ndarray:
    """Prepare one image, uint8 [3, R, R], from its content."""
    if content is None:
        raise UnusableImageError("has no image", "Remove the rows without an image.")
    if isinstance(content, Drawing):
        return draw_avatar(content.seed, style=content.style, size=source.resolution).transpose(2, 0, 1)
    return decode_image(content, resolution=source.resolution, crop=source.crop, upscale=source.upscale)


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
