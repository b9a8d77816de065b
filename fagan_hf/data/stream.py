"""Stream the images of a run: read and decoded during training, never all on disk.

`fagan_hf.data.prepare` caches every image of a run, decoded; this is for data larger than the disk. The pixels are the
same. But a stream can't inspect everything up front: unusable images are skipped when they are reached, and the
values of a label must be known from its type.

Example:
    with open_stream(ImageSource("alice/portraits", resolution=64), seed=0) as stream:
        reals, labels = stream.take(32)  # uint8 [32, 3, 64, 64], float32 [32, 0]
"""

import atexit
import hashlib
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fagan_hf.data.archives import Member
from fagan_hf.data.decode import UnusableImageError, decode_image
from fagan_hf.data.image_source import ImageSource, describe_decoding, fingerprint
from fagan_hf.data.labels import LabelColumn, encode_column, value_vectors
from fagan_hf.data.rows import find_image_columns, hub_facts, image_column, opening_rows
from fagan_hf.data.sources import check_label_columns, kind_of_source, list_images
from fagan_hf.utils.devices import available_cores
from fagan_hf.utils.suggest import suggest

if TYPE_CHECKING:
    import torch

__all__ = ["ImageStream", "open_stream"]

SAMPLE_IMAGES = 1024  # their labels are used to estimate label frequencies
# Shuffle buffer of encoded images from the Hub. 10,000 JPEGs of CelebA's size are 100 MB; for larger images the buffer
# holds fewer, so that it never exceeds half a GB per process.
BUFFER_IMAGES = 10_000
BUFFER_BYTES = 1 << 29
AHEAD_IMAGES = 256  # decoded and waiting for `take`: 12 MB at 128x128
MOST_SKIPPED = 100  # consecutive
_NAMED_SKIPS = 10
_MOST_SHARDS = 1024  # a repository of image files has one shard per file
_OPEN_SHARDS = 4  # each holds a row group, which in datasets of images are usually 100 rows
_SAMPLE_SHARDS = 16  # shards may be sorted by class, so the sample is spread over several
_JOIN_SECONDS = 2.0  # a thread that waits for the network can't end before the network answers

logger = logging.getLogger(__name__)


def open_stream(
    source: ImageSource, *, seed: int, process: int = 0, processes: int = 1, start: int = 0
) -> "ImageStream":
    """Open the endless stream of a source's images, reshuffled in each epoch.

    Processes share the images: within an epoch no image goes to two of them. What a resumed run sees depends on the
    source:

    - A folder's order is a function of seed and position, so a run resumes exactly where it was. Skipped images don't
      count in `start`, though: as many of the last images as were skipped before are repeated.
    - A Hub dataset can't be entered in the middle. A resumed run begins a new epoch whose order of shards and images
      depends on seed and `start`. So around a resume some images repeat, and others are missed until later; with a
      single shard the first images are again from its beginning, in another order.

    Args:
        source: A folder or a Hub dataset, and the preprocessing of its images.
        seed: Seed of the order; not negative.
        process: Index of this process, from 0.
        processes: Number of processes. With fewer shards than processes, each downloads all of a Hub dataset.
        start: Number of images the run has seen, over all processes.

    Raises:
        ValueError: The source is the built-in avatars, which are not streamed; no such split, image or label column; a
            label whose values can't be known; fewer images in a folder than processes; numbers out of range.
        FileNotFoundError: No such folder, or no such dataset on the Hub.
        ImportError: `datasets` is missing, from the extra `train`.
        OSError: The Hub can't be reached.
    """
    for name, value in (("seed", seed), ("start", start)):
        if value < 0:
            raise ValueError(f"{name} is {value}; it must not be negative")
    if not 0 <= process < processes:
        raise ValueError(f"process is {process}; with {processes} processes it must be from 0 to {processes - 1}")
    kind = kind_of_source(source.dataset)
    if kind == "avatars":
        raise ValueError(f"{source.dataset} can't be streamed: avatars are drawn locally. Leave out --streaming.")
    open_source = _open_hub if kind == "hub" else _open_listing
    return ImageStream(source, open_source(source, _Share(seed, process, processes, start)))


class ImageStream:
    """The images of one process, read and decoded ahead by a few threads.

    Attributes:
        label_names: Names of the L columns.
        labels: float32 [M, L] of 0 and 1, of a sample of M (up to 1,024) images, the same in every process and after
            a resume: an estimate of the label frequencies. [0, 0] without labels.
        description: Facts for a card, like those of `Images`, plus `streamed`: True; `count` is None if the dataset
            does not declare it.
        fingerprint: Identifies source and preprocessing: the same fingerprint means the same images.
        image_shape: (C, R, R).
        skipped: Number of unusable images so far.
        summary: What was found and what is not read, in one line; empty for the Hub.
    """

    def __init__(self, source: ImageSource, opened: "_Opened") -> None:
        self.label_names = tuple(name for column in opened.columns for name in column.names)
        self.labels = opened.labels
        self.description: dict[str, Any] = {
            **opened.facts,
            "count": opened.count,
            "resolution": source.resolution,
            "preprocessing": describe_decoding(source),
            "options": source.options(),
            "streamed": True,
        }
        self.fingerprint = fingerprint(source, opened.identity)
        self.image_shape = (source.channels, source.resolution, source.resolution)
        self.summary = opened.summary
        self.skipped = 0
        self._taken = 0
        self._skipped_in_a_row: list[str] = []
        self._ahead = _Ahead(opened.samples, lambda sample: _prepare(source, opened, sample))
        atexit.register(self.close)  # threads that read while the interpreter ends could crash it

    def __enter__(self) -> "ImageStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ImageStream {self.description['dataset']}: {self.image_shape}, labels {self.label_names}>"

    def take(self, count: int) -> "tuple[torch.Tensor, torch.Tensor]":
        """Take the next images of this process, which may reach into the next epoch.

        Returns:
            uint8 [count, C, R, R] in [0, 255], and float32 [count, L] of 0 and 1.

        Raises:
            ValueError: More than a hundred images in a row can't be used, this process has no images, or a label
                has an undeclared value.
            OSError: Reading has failed; see its cause.
        """
        import torch

        images = np.empty((count, *self.image_shape), np.uint8)
        labels = np.empty((count, len(self.label_names)), np.float32)
        for row in range(count):
            images[row], labels[row] = self._next()
        return torch.from_numpy(images), torch.from_numpy(labels)

    def close(self) -> None:
        """End the threads. One that waits for the network ends as soon as the network answers."""
        atexit.unregister(self.close)
        self._ahead.close()

    def _next(self) -> tuple[np.ndarray, np.ndarray]:
        while True:
            try:
                prepared = self._ahead.get()
            except _RefusedError as error:
                raise ValueError(str(error)) from error
            except Exception as error:
                raise OSError(
                    f"reading {self.description['dataset']} failed after {self._taken:,} images in this process: "
                    f"{type(error).__name__}: {error}"
                ) from error
            if not isinstance(prepared, _Skipped):
                self._taken += 1
                self._skipped_in_a_row.clear()
                return prepared
            self._skip(prepared)

    def _skip(self, image: "_Skipped") -> None:
        """Skip an image, unless too many in a row can't be used."""
        self.skipped += 1
        self._skipped_in_a_row.append(f"{image.name} {image.error}. {image.error.hint}")
        if len(self._skipped_in_a_row) > MOST_SKIPPED:
            raise ValueError(
                f"{len(self._skipped_in_a_row)} images in a row can't be used, the first of them: "
                f"{self._skipped_in_a_row[0]}"
            ) from image.error
        if self.skipped <= _NAMED_SKIPS:
            more = " Further skipped images won't be listed." if self.skipped == _NAMED_SKIPS else ""
            logger.warning("Skipped: %s%s", self._skipped_in_a_row[-1], more)


# An opened source.


@dataclass(frozen=True)
class _Share:
    """Which images a process gets, and in which order."""

    seed: int
    process: int
    processes: int
    start: int


@dataclass(frozen=True)
class _Sample:
    """The source of one image: `content` is decoded when its turn comes."""

    name: str
    content: Path | bytes | Member | Callable[[], bytes] | None
    values: tuple[Any, ...] = ()  # one for each label column


@dataclass(frozen=True)
class _Column:
    """All values of a label column, and the vector of 0 and 1 that encodes each."""

    name: str
    names: tuple[str, ...]
    vectors: Mapping[Any, np.ndarray]  # float32 [len(names)] each

    def encode(self, value: Any) -> np.ndarray:
        if value in self.vectors:
            return self.vectors[value]
        if value is None or (value == -1 and len(self.names) > 1):  # -1: the Hub's "no class"
            raise UnusableImageError(f"has no {self.name}", "Remove the rows without a label.")
        raise _RefusedError(
            f"Label column {self.name!r} contains {value!r}, but its type and first rows suggested the values "
            f"{', '.join(map(str, self.vectors))}. To stream a column with other values, make it a ClassLabel."
        )


@dataclass(frozen=True)
class _Opened:
    """What streaming needs from a folder or a Hub dataset."""

    columns: tuple[_Column, ...]
    labels: np.ndarray
    samples: Generator[_Sample]  # endless
    count: int | None
    identity: Any
    facts: dict[str, Any]
    summary: str = ""


class _RefusedError(ValueError):
    """A problem with the data; the message needs no further explanation."""


def _classes(name: str, classes: Sequence[str | int]) -> _Column:
    names, one_hot = encode_column(name, LabelColumn(classes, classes))
    return _Column(name, names, dict(zip(classes, one_hot, strict=True)))


def _encode(columns: tuple[_Column, ...], values: tuple[Any, ...]) -> np.ndarray:
    """Put the vectors of all columns side by side, float32 [L]."""
    vectors = [column.encode(value) for column, value in zip(columns, values, strict=True)]
    return np.concatenate([np.zeros(0, np.float32), *vectors])


def _stack(labels: list[np.ndarray], columns: tuple[_Column, ...]) -> np.ndarray:
    return np.array(labels, np.float32).reshape(len(labels), sum(len(column.names) for column in columns))


# Local files: a list of them allows random access.


def _open_listing(source: ImageSource, share: _Share) -> _Opened:
    listing = list_images(source)
    if listing.count < share.processes:
        raise ValueError(
            f"{source.dataset} has {listing.count} images for {share.processes} processes, so some would get none. "
            "Add images, or start fewer processes."
        )
    read = [listing.columns[name]() for name in source.label_columns]
    columns = tuple(_known_column(name, column) for name, column in zip(source.label_columns, read, strict=True))

    def values(index: int) -> tuple[Any, ...]:
        return tuple(column.values[index] for column in read)

    def samples() -> Generator[_Sample]:
        for index in _positions(share, listing.count):
            content: Any = listing.contents(index, index + 1)[0]  # avatars, which are drawn, are not streamed
            yield _Sample(listing.name(index), content, values(index))

    labels = []
    for index in _epoch_order(share.seed, 0, listing.count)[:SAMPLE_IMAGES] if columns else []:
        with suppress(UnusableImageError):  # it has no label, and will be skipped
            labels.append(_encode(columns, values(index)))
    identity = hashlib.sha256(listing.identity.encode(errors="surrogateescape")).hexdigest()
    return _Opened(columns, _stack(labels, columns), samples(), listing.count, identity, listing.facts, listing.summary)


def _known_column(name: str, column: LabelColumn) -> _Column:
    """Encode a column whose values are all known."""
    present = [value for value in column.values if value is not None]
    return _Column(name, *value_vectors(name, LabelColumn(present, column.classes)))


def _positions(share: _Share, size: int) -> Iterator[int]:
    """Distribute the endless order of all epochs over the processes, from position `start` on."""
    position = share.start + share.process
    while True:
        epoch, offset = divmod(position, size)
        mine = _epoch_order(share.seed, epoch, size)[offset :: share.processes]
        yield from mine.tolist()
        position += len(mine) * share.processes


def _epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(size)


# Hub datasets: shards, each read from its beginning.


def _open_hub(source: ImageSource, share: _Share) -> _Opened:
    with opening_rows(source) as datasets:
        options = {"name": source.config_name} if source.config_name else {}
        builder = datasets.load_dataset_builder(source.dataset, revision=source.revision, **options)
        splits = builder.as_streaming_dataset()
    if source.split not in splits:
        raise ValueError(f"{source.dataset} has no split {source.split!r}: {suggest(source.split, splits)}.")
    rows = splits[source.split]
    if rows.features is None:  # CSV and JSON declare none: infer them from the first rows
        rows = rows._resolve_features()
    images = find_image_columns(source, rows.features)
    source = replace(source, image_column=image_column(source, images))
    check_label_columns(source, [name for name in rows.features if name not in images])
    rows = rows.decode(False)  # otherwise reading labels would fetch images
    columns, labels = _read_labels(source, rows, share.seed)
    rows = rows.select_columns([source.image_column, *source.label_columns])
    rows = rows.cast_column(source.image_column, datasets.Image(decode=False))  # plain bytes too
    split = (rows.info.splits or {}).get(source.split)
    commit = builder.hash  # load_dataset names its cache folder after it
    return _Opened(
        columns,
        labels,
        _hub_samples(source, rows, share),
        (split.num_examples or None) if split else None,
        [source.dataset, commit, source.split, source.image_column],
        hub_facts(source, rows.info, commit),
    )


def _hub_samples(source: ImageSource, rows: Any, share: _Share) -> Generator[_Sample]:
    """Read this process's share, epoch after epoch."""
    for epoch in count():
        samples = (_sample(source, row) for row in _hub_rows(rows, share, epoch, _OPEN_SHARDS))
        is_empty = True
        for sample in _shuffled(samples, np.random.default_rng([share.seed, share.start, epoch, share.process])):
            is_empty = False
            yield sample
        if is_empty:
            raise _RefusedError(
                f"Process {share.process} of {share.processes} found no image of {source.dataset} ({source.split}) "
                "in a whole epoch. Start fewer processes, or use a dataset with more images."
            )


def _hub_rows(rows: Any, share: _Share, epoch: int, width: int) -> Iterator[Mapping[str, Any]]:
    """Distribute the shards over the processes in random order; or the rows, if there are fewer shards.

    `datasets` would distribute rows unless the number of shards is a multiple of the number of processes, and shuffle
    shards with threads that it waits for at exit, however long the network takes.
    """
    num_shards = min(rows.num_shards, _MOST_SHARDS)
    # The seed must not depend on the process: with different orders two processes would get the same shard.
    order = np.random.default_rng([share.seed, share.start, epoch]).permutation(num_shards).tolist()
    shards = (rows.shard(num_shards, index, contiguous=False) for index in order)
    if num_shards >= share.processes:
        return _in_turn(islice(shards, share.process, None, share.processes), width)
    return islice(_in_turn(shards, width), share.process, None, share.processes)


def _in_turn(shards: Iterator[Any], width: int) -> Iterator[Mapping[str, Any]]:
    """Yield a row of each of `width` shards in turn; the next shard replaces one that ends."""
    open_shards = deque(iter(shard) for shard in islice(shards, width))
    while open_shards:
        rows = open_shards.popleft()
        row = next(rows, None)
        if row is None:
            open_shards.extend(iter(shard) for shard in islice(shards, 1))
        else:
            open_shards.append(rows)
            yield row


def _sample(source: ImageSource, row: Mapping[str, Any]) -> _Sample:
    cell = row[source.image_column]
    values = tuple(row[name] for name in source.label_columns)
    if cell is None or (cell["bytes"] is None and cell["path"] is None):
        return _Sample("a row", None, values)
    if cell["bytes"] is None:  # a repository of image files: its rows are URLs
        return _Sample(cell["path"], lambda: _fetch(cell["path"]), values)
    return _Sample(cell["path"] or f"an image of {len(cell['bytes']):,} bytes", cell["bytes"], values)


def _fetch(address: str) -> bytes:
    from datasets.utils.file_utils import xopen

    with xopen(address, "rb") as file:
        return file.read()


def _shuffled(samples: Iterator[_Sample], random: np.random.Generator) -> Iterator[_Sample]:
    """Shuffle within a buffer: each sample that leaves it is replaced by the next.

    The buffer of `datasets` does not count bytes, so photographs could fill the memory; and it yields half of its
    contents at once, so training would wait for the other half.
    """
    buffer: list[_Sample] = []
    held_bytes = 0

    def pick() -> _Sample:
        index = int(random.integers(len(buffer)))
        buffer[index], buffer[-1] = buffer[-1], buffer[index]
        return buffer.pop()

    for sample in samples:
        buffer.append(sample)
        held_bytes += _num_bytes(sample)
        while len(buffer) > BUFFER_IMAGES or (held_bytes > BUFFER_BYTES and buffer):
            picked = pick()
            held_bytes -= _num_bytes(picked)
            yield picked
    while buffer:
        yield pick()


def _num_bytes(sample: _Sample) -> int:
    return len(sample.content) if isinstance(sample.content, bytes) else 0


def _read_labels(source: ImageSource, rows: Any, seed: int) -> tuple[tuple[_Column, ...], np.ndarray]:
    """Infer the label columns from their types, and from a sample how binary attributes are encoded."""
    names = list(source.label_columns)
    if not names:
        return (), _stack([], ())
    for name in names:
        _check_type(source, name, rows.features[name])
    everything = _Share(seed, process=0, processes=1, start=0)
    first = islice(_hub_rows(rows.select_columns(names), everything, 0, _SAMPLE_SHARDS), SAMPLE_IMAGES)
    sample = [tuple(row[name] for name in names) for row in first]
    columns = tuple(
        _hub_column(source, name, rows.features[name], {values[index] for values in sample} - {None})
        for index, name in enumerate(names)
    )
    labels = []
    for values in sample:
        with suppress(UnusableImageError):  # its image will be skipped too
            labels.append(_encode(columns, values))
    return columns, _stack(labels, columns)


def _check_type(source: ImageSource, name: str, feature: Any) -> None:
    kind = getattr(feature, "dtype", None) or type(feature).__name__
    if type(feature).__name__ != "ClassLabel" and not str(kind).startswith(("bool", "int", "uint")):
        raise _unknowable(source, name, f"is of type {kind}")


def _hub_column(source: ImageSource, name: str, feature: Any, seen: set[Any]) -> _Column:
    if type(feature).__name__ == "ClassLabel":
        column = _classes(name, feature.names)
        return replace(column, vectors=dict(enumerate(column.vectors.values())))  # rows contain class indices
    if not (seen <= {0, 1} or seen <= {-1, 1}):  # True == 1
        raise _unknowable(source, name, f"contains {', '.join(map(str, sorted(seen)[:5]))}{' ...' * (len(seen) > 5)}")
    false = seen - {1} or {0, -1}  # if all of the sample are true, either may follow
    return _Column(name, (name,), {value: np.array([value == 1], np.float32) for value in sorted({1, *false})})


def _unknowable(source: ImageSource, name: str, found: str) -> ValueError:
    return ValueError(
        f"Label column {name!r} of {source.dataset} {found}, so all its values would have to be read before training. "
        "Columns that can be streamed are bool, 0 and 1, -1 and 1, or a ClassLabel. Otherwise leave out --streaming."
    )


# Decoding, ahead of training.


@dataclass(frozen=True)
class _Skipped:
    """An image that can't be used."""

    name: str
    error: UnusableImageError


_Prepared = tuple[np.ndarray, np.ndarray] | _Skipped


def _prepare(source: ImageSource, opened: _Opened, sample: _Sample) -> _Prepared:
    """Prepare the pixels and labels of one image, uint8 [C, R, R] and float32 [L]."""
    content = sample.content() if callable(sample.content) else sample.content
    try:
        labels = _encode(opened.columns, sample.values)
        if content is None:
            raise UnusableImageError("has no image", "Remove the rows without an image.")
        return decode_image(content, **source.decoding()), labels
    except UnusableImageError as error:
        return _Skipped(sample.name, error)


class _Ahead:
    """Prepares samples in threads, and returns them in order.

    The threads take turns: each takes the next sample and queues a future for it, then prepares it while others take
    theirs. So the order of the samples is kept, and the queue's length bounds the read-ahead. The threads are daemons:
    a process that ends does not wait for the network.
    """

    def __init__(self, samples: Generator[_Sample], prepare: Callable[[_Sample], _Prepared]) -> None:
        self._samples = samples
        self._prepare = prepare
        self._promises: queue.Queue[Future[_Prepared]] = queue.Queue(AHEAD_IMAGES)
        self._turn = threading.Lock()
        self._has_ended = False
        self._failed: Future[_Prepared] | None = None
        num_threads = min(8, max(2, available_cores()))  # with two, one reads while the other decodes
        self._threads = [
            threading.Thread(target=self._work, name=f"image-stream-{number}", daemon=True)
            for number in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def get(self) -> _Prepared:
        """Wait for the next sample. After a failure every later call fails with the same error."""
        promise = self._failed or self._promises.get()
        if promise.exception() is not None:
            self._failed = promise
            self._end()
        return promise.result()

    def close(self) -> None:
        self._end()
        for thread in self._threads:
            thread.join(_JOIN_SECONDS / len(self._threads))
        if self._turn.acquire(blocking=False):  # otherwise a thread is still reading
            with suppress(Exception):
                self._samples.close()  # and with it the files it reads
            self._turn.release()
        if self._failed is None:
            self._failed = Future()
            self._failed.set_exception(_RefusedError("The stream is closed; open a new one."))

    def _end(self) -> None:
        """Let the threads end: a thread that waits for room in the queue gets it, and then sees the end."""
        self._has_ended = True
        with suppress(queue.Empty):
            while True:
                self._promises.get_nowait()

    def _work(self) -> None:
        while (job := self._next_job()) is not None:
            promise, sample = job
            try:
                promise.set_result(self._prepare(sample))
            except BaseException as error:  # raised to the consumer
                promise.set_exception(error)

    def _next_job(self) -> tuple[Future[_Prepared], _Sample] | None:
        with self._turn:
            if self._has_ended:
                return None
            promise: Future[_Prepared] = Future()
            try:
                sample = next(self._samples)
            except BaseException as error:
                self._has_ended = True
                promise.set_exception(error)
                self._promises.put(promise)
                return None
            if self._has_ended:
                return None
            self._promises.put(promise)
            return promise, sample
