"""Prepare the images of a run: each is decoded once, into a cache that training memory-maps.

Example:
    images = prepare_images(ImageSource("avatars", resolution=32, label_columns=("beard",)))
    reals, labels = images.batch([0, 1, 2])  # uint8 [3, 3, 32, 32], float32 [3, 1]
"""

import re
import shutil
import sys
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fagan_hf.data.archives import Refused
from fagan_hf.data.avatars import draw_avatar
from fagan_hf.data.cache import (
    UNPACKED,
    Chunk,
    DecodedBefore,
    Images,
    cache_key,
    cache_root,
    find_cache,
    only_one_process,
    write_pixels,
    write_view,
)
from fagan_hf.data.decode import UnusableImageError, decode_image
from fagan_hf.data.digests import recall_facts, remember_facts
from fagan_hf.data.image_source import ImageSource, decoding_identity, describe_decoding
from fagan_hf.data.labels import LabelColumn, encode_column
from fagan_hf.data.listing import Content, Drawing, Listing
from fagan_hf.data.sources import list_images
from fagan_hf.data.workers import CHUNK_IMAGES, map_in_processes
from fagan_hf.utils.devices import available_cores
from fagan_hf.utils.files import remove_abandoned_folders

__all__ = ["ImageSource", "Images", "prepare_images"]

_NAMED_PROBLEMS = 10
_PROBLEM = "can it be decoded?\t"  # a question of `recall_facts`


def prepare_images(
    source: ImageSource,
    *,
    cache_dir: Path | None = None,
    progress: bool = True,
    num_processes: int | None = None,
) -> Images:
    """Decode, crop and resize every image of a source, or open the cache of an earlier call.

    An image whose bytes were decoded in the same way before, for whatever dataset, is not decoded again.

    Args:
        source: What to read and how to preprocess it.
        cache_dir: Folder of caches; default `$FAGAN_CACHE`, else `~/.cache/fagan_hf`.
        progress: Whether to show a progress bar on stderr, and one line about what was found and left out.
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
    root = cache_root(cache_dir)
    listing = list_images(source, unpacked=root / UNPACKED)
    columns = {name: listing.columns[name]() for name in source.label_columns}
    digests = listing.digests(progress)
    problems = _Problems(listing)
    problems.add(_without_labels(columns, listing.count))
    problems.add(_known_problems(root, digests, source))
    folder = _find(root, digests, problems, source)
    if folder is None:
        with only_one_process(_folder(root, listing, digests, source), tell=progress):
            problems.add(_known_problems(root, digests, source))  # found by the process we waited for
            folder = _find(root, digests, problems, source)
            if folder is None:
                folder = _decode(root, source, listing, digests, problems, progress, num_processes or available_cores())
    if progress:
        _tell_once(_summary(listing, problems))
    if problems and not source.skip_broken:
        raise problems.error()
    usable = problems.usable()
    names, labels = _encode_labels(columns, usable)
    description = {**listing.facts, **_describe(source, listing, problems)}
    return write_view(folder, labels=labels, label_names=names, description=description)


def _find(root: Path, digests: np.ndarray, problems: "_Problems", source: ImageSource) -> Path | None:
    """Find the cache folder of all images but those that can't be used."""
    usable = problems.usable()
    return find_cache(root, cache_key(digests[usable], decoding_identity(source)), len(usable))


def _folder(root: Path, listing: Listing, digests: np.ndarray, source: ImageSource) -> Path:
    """Name the cache folder of images."""
    name = re.sub(r"[^\w.-]+", "-", listing.facts["dataset"]).strip(".-")[-80:]
    return root / f"{name}-{cache_key(digests, decoding_identity(source))}"


def _decode(
    root: Path,
    source: ImageSource,
    listing: Listing,
    digests: np.ndarray,
    problems: "_Problems",
    progress: bool,
    num_processes: int,
) -> Path:
    """Decode what is not in a cache yet, and write the cache of all usable images.

    Raises:
        ValueError: None of the images can be used.
    """
    shape = (source.channels, source.resolution, source.resolution)
    decoding = decoding_identity(source)
    known = DecodedBefore(root, decoding, digests, shape)
    wanted = problems.usable()
    found: dict[int, UnusableImageError] = {}

    def chunks() -> Generator[Chunk]:
        with (
            tqdm(total=len(wanted), desc=listing.action, unit="img", disable=not progress) as bar,
            closing(_prepare_all(source, listing, wanted, digests, known, num_processes)) as prepared,
        ):
            for part in prepared:
                found.update(part.errors)
                yield Chunk(part.images, digests[part.usable()])
                bar.update(len(part.rows))
        if len(found) == len(wanted):
            raise problems.error(found)

    # Named after all images: the name is only known to be right at the end, if some can't be used.
    folder = _folder(root, listing, digests[wanted], source)
    try:
        with closing(chunks()) as stream:  # in any case, the processes end before this returns
            write_pixels(folder, stream, count=len(wanted), shape=shape, decoding=decoding)
        remove_abandoned_folders(folder)  # of interrupted calls, whose images are in this one now
    finally:
        problems.add(found)
        lasting = {at: [str(error), error.hint] for at, error in found.items() if error.is_lasting}
        remember_facts(root, digests, _PROBLEM + decoding, lasting)
    if found:
        there = _find(root, digests, problems, source)
        if there is None:
            there = _folder(root, listing, digests[problems.usable()], source)
            shutil.rmtree(there, ignore_errors=True)
            folder.replace(there)
        folder = there
    return folder


def _known_problems(root: Path, digests: np.ndarray, source: ImageSource) -> dict[int, UnusableImageError]:
    """Recall which images an earlier call could not decode."""
    known = recall_facts(root, digests, _PROBLEM + decoding_identity(source))
    return {at: UnusableImageError(message, hint) for at, (message, hint) in known.items()}


def _without_labels(columns: dict[str, LabelColumn], count: int) -> dict[int, UnusableImageError]:
    problems = {}
    for name, column in columns.items():
        for at in range(count):
            if column.values[at] is None:
                hint = "Move it into a subfolder." if name == "class" else f"Add the missing values of {name}."
                problems[at] = UnusableImageError(f"has no {name}", hint)
    return problems


def _encode_labels(columns: dict[str, LabelColumn], usable: np.ndarray) -> tuple[list[str], np.ndarray]:
    names: list[str] = []
    parts = [np.zeros((len(usable), 0), np.float32)]
    for name, column in columns.items():
        present = [column.values[at] for at in usable]
        column_names, values = encode_column(name, LabelColumn(present, column.classes))
        names += column_names
        parts.append(values)
    return names, np.concatenate(parts, axis=1)


def _describe(source: ImageSource, listing: Listing, problems: "_Problems") -> dict[str, Any]:
    """Describe for a card how many images were prepared, and how."""
    is_drawn = isinstance(next(iter(listing.contents(0, 1))), Drawing)
    drawn = f"drawn at {source.resolution}x{source.resolution}"
    description = {
        "count": listing.count - len(problems),
        "resolution": source.resolution,
        "preprocessing": drawn if is_drawn else describe_decoding(source),
        "options": source.options(),
    }
    left_out = problems.counts()
    return {**description, "left_out": left_out} if left_out else description


def _summary(listing: Listing, problems: "_Problems") -> str:
    """Say in one line what was found, and what was left out."""
    broken = f"{len(problems):,} of them can't be used" if problems else ""
    return "; ".join(part for part in (listing.summary, broken) if part)


_told: set[str] = set()


def _tell_once(summary: str) -> None:
    """Print a line, unless this process has printed it: a program may prepare the same images again."""
    if summary and summary not in _told:
        print(summary, file=sys.stderr)
        _told.add(summary)


class _Problems:
    """Collect the images that can't be used, by position."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._errors: dict[int, UnusableImageError] = {}

    def __len__(self) -> int:
        return len(self._errors)

    def add(self, errors: Mapping[int, UnusableImageError]) -> None:
        self._errors = {**errors, **self._errors}

    def usable(self) -> np.ndarray:
        """Return the positions of all other images."""
        return np.array([at for at in range(self._listing.count) if at not in self._errors], np.int64)

    def counts(self) -> dict[str, int]:
        """Count the images by what is wrong with them, without details of each."""
        reasons = [re.sub(r"\d[\d,]*(x\d+)?|\(.*", "", str(error)).strip() for error in self._errors.values()]
        return dict(Counter(reasons).most_common(_NAMED_PROBLEMS))

    def error(self, more: Mapping[int, UnusableImageError] | None = None) -> ValueError:
        """Return an error that names the first images, their number, and what to try."""
        errors = dict(sorted({**self._errors, **(more or {})}.items()))
        named = [f"  {self._listing.name(at)} {error}" for at, error in errors.items()][:_NAMED_PROBLEMS]
        others = len(errors) - len(named)
        hints = dict.fromkeys(error.hint for error in errors.values())
        lines = [
            f"{len(errors)} of {self._listing.count} images can't be used:",
            *named,
            *([f"  and {others} more"] if others else []),
            *hints,
        ]
        if len(errors) < self._listing.count:
            lines.append("Or leave them out: --skip-broken.")
        raised = ValueError("\n".join(lines))
        raised.__cause__ = next(iter(errors.values()), None)
        return raised


# The work.


@dataclass
class _Prepared:
    """The result of a chunk: its positions, the usable images, and the errors of the others by position."""

    rows: np.ndarray
    images: np.ndarray
    errors: dict[int, UnusableImageError] = field(default_factory=dict)

    def usable(self) -> np.ndarray:
        """Return the positions of the usable images."""
        return np.array([at for at in self.rows.tolist() if at not in self.errors], np.int64)


def _prepare_all(
    source: ImageSource,
    listing: Listing,
    rows: np.ndarray,
    digests: np.ndarray,
    known: DecodedBefore,
    num_processes: int,
) -> Generator[_Prepared]:
    """Prepare chunk after chunk, in order; what was decoded before is copied."""
    missing = [at for at in rows.tolist() if known.get(digests[at]) is None]
    waiting = set(missing)
    decoded: _Decoded = {}
    with closing(map_in_processes(partial(_decode_some, source), listing, missing, num_processes)) as parts:
        for start in range(0, len(rows), CHUNK_IMAGES):
            part = rows[start : start + CHUNK_IMAGES]
            while waiting.intersection(part.tolist()):
                decoded |= next(parts)
                waiting -= decoded.keys()
            yield _merged(source, part, known, digests, {at: decoded.pop(at) for at in part.tolist() if at in decoded})


_Decoded = dict[int, np.ndarray | UnusableImageError]


def _merged(
    source: ImageSource, rows: np.ndarray, known: DecodedBefore, digests: np.ndarray, decoded: _Decoded
) -> _Prepared:
    """Put copied and decoded images in order."""
    errors = {at: image for at, image in decoded.items() if isinstance(image, UnusableImageError)}
    usable = (at for at in rows.tolist() if at not in errors)
    images = [known.get(digests[at]) if at not in decoded else decoded[at] for at in usable]
    empty = np.zeros((0, source.channels, source.resolution, source.resolution), np.uint8)
    return _Prepared(rows, np.stack(images) if images else empty, errors)  # pyright: ignore[reportArgumentType, reportCallIssue]


def _decode_some(source: ImageSource, contents: Mapping[int, Content]) -> _Decoded:
    """Decode images, or keep why they can't be."""
    decoded: _Decoded = {}
    for at, content in contents.items():
        try:
            decoded[at] = _prepare(source, content)
        except UnusableImageError as error:
            decoded[at] = error
    return decoded


def _prepare(source: ImageSource, content: Content) -> np.ndarray:
    """Prepare one image, uint8 [C, R, R], from its content."""
    if content is None:
        raise UnusableImageError("has no image", "Remove the rows without an image.")
    if isinstance(content, Refused):
        raise UnusableImageError(content.reason, "Store the images in the table, or beside it.")
    if isinstance(content, Drawing):
        return draw_avatar(content.seed, style=content.style, size=source.resolution).transpose(2, 0, 1)
    return decode_image(content, **source.decoding())
