"""Cache decoded images on disk: a folder that is complete or absent, memory-mapped when it is read.

A cache folder is named after the bytes of its images and how they were decoded, not after where they came from:

- `pixels.bin`: uint8 [N, C, R, R].
- `rows.bin`: N records of the digest of an image's bytes, and of its pixels.
- `decoding.json`: how they were decoded, and their shape.
- `about.json`: the shape and hash of all pixels; written last.
- `view-<key>.npy` and `.json`: labels, and facts for cards, of one dataset with these images.

It is written to a temporary folder, synced and renamed, so that an interruption never leaves a partial cache. What was
decoded before the interruption is found in the temporary folder by the next call.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from fagan_hf.data.digests import DIGEST_BYTES, MEMORY
from fagan_hf.utils.files import replacing, replacing_folder

if TYPE_CHECKING:
    import torch

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_SPARE_BYTES = 1 << 20  # for about.json and the file system's blocks
_CHECKSUM_BYTES = 8
_PIXELS, _ROWS, _DECODING, _ABOUT = "pixels.bin", "rows.bin", "decoding.json", "about.json"
UNPACKED = "unpacked"  # folder of decompressed copies of compressed tar files


class Images:
    """Prepared images on disk, memory-mapped: opened instantly, and shared by processes.

    Attributes:
        array: uint8 [N, C, R, R], read only.
        labels: float32 [N, L], 0 or 1.
        label_names: Names of the L columns.
        content: SHA-256 of pixels and labels, independent of their source.
        description: Facts for a card: dataset, split, revision, license, attribution, count, preprocessing,
            what was left out, and the options that differ from the defaults.
        folder: The cache folder.
        view: Which labels and description, of those in the folder.
    """

    def __init__(self, folder: Path, view: str) -> None:
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        facts = json.loads((folder / f"{view}.json").read_text(encoding="utf-8"))
        self.folder = folder
        self.view = view
        self.array = _map_pixels(folder, tuple(about["shape"]))
        self.labels: np.ndarray = np.load(folder / f"{view}.npy")
        self.label_names: tuple[str, ...] = tuple(facts["label_names"])
        self.description: dict[str, Any] = facts["description"]
        content = hashlib.sha256(json.dumps([about["shape"], facts["label_names"], about["pixels"]]).encode())
        content.update(np.ascontiguousarray(self.labels).data)
        self.content: str = content.hexdigest()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of an image, (C, R, R)."""
        channels, height, width = self.array.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.array)

    def __repr__(self) -> str:
        size = "x".join(map(str, self.array.shape))
        return f"<Images {self.description['dataset']}: {size}, labels {self.label_names}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Images, (self.folder, self.view)  # a process that unpickles it maps the file instead of copying it

    def batch(self, indices: Sequence[int] | np.ndarray) -> "tuple[torch.Tensor, torch.Tensor]":
        """Copy some images and their labels from the file.

        Args:
            indices: B positions in [0, N), in any order; negative ones count from the end.

        Returns:
            uint8 [B, C, R, R] in [0, 255], and float32 [B, L] of 0 and 1.

        Raises:
            IndexError: An index is not below N.
        """
        import torch

        rows = np.asarray(indices, dtype=np.int64)
        return torch.from_numpy(np.asarray(self.array[rows])), torch.from_numpy(self.labels[rows])


def cache_root(cache_dir: Path | None) -> Path:
    """Return the folder of caches: `cache_dir`, else `$FAGAN_CACHE`, else `~/.cache/fagan_hf`."""
    root = cache_dir or os.environ.get("FAGAN_CACHE") or Path("~/.cache/fagan_hf")
    return Path(root).expanduser()


def cache_key(digests: np.ndarray, decoding: str) -> str:
    """Name the pixels of images: by their bytes, their order, and how they are decoded."""
    key = hashlib.sha256(decoding.encode())
    key.update(np.ascontiguousarray(digests).data)
    return key.hexdigest()[:16]


def find_cache(root: Path, key: str, count: int) -> Path | None:
    """Find the complete cache folder of a key and that many images, whatever its dataset was called.

    A call that was killed before it could name its folder after the images that were not left out may have left one of
    fewer images.
    """
    return next((folder for folder in sorted(root.glob(f"*-{key}")) if is_complete(folder, count)), None)


def is_complete(folder: Path, count: int | None = None) -> bool:
    """Return whether a cache folder has all pixels, each file with the expected length.

    Args:
        folder: The folder.
        count: Expected number of images; by default any.
    """
    try:
        shape = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))["shape"]
        sizes = (folder / _PIXELS).stat().st_size, (folder / _ROWS).stat().st_size
        expected = int(np.prod(shape)), shape[0] * (DIGEST_BYTES + _CHECKSUM_BYTES)
        return sizes == expected and len(shape) == 4 and count in (None, shape[0])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return False


@contextmanager
def only_one_process(path: Path, *, tell: bool) -> Iterator[None]:
    """Let one process at a time prepare a file or folder; the others wait here, then find it ready.

    The lock is released when the process that holds it ends, however it ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if tell:
            print(f"Waiting for another process that is preparing {path} ...", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


class DecodedBefore:
    """Pixels of images that are in some cache already, or in what an interrupted call left.

    Args:
        root: Folder of caches.
        decoding: How the images are decoded; other caches are not looked at.
        digests: uint8 [N, 16], the images that are wanted.
        shape: Shape of an image, [C, R, R].
    """

    def __init__(self, root: Path, decoding: str, digests: np.ndarray, shape: Sequence[int]) -> None:
        self._found: dict[bytes, tuple[np.ndarray, int, bytes | None]] = {}
        wanted = {row.tobytes() for row in digests}
        for folder in sorted(path.parent for path in root.glob(f"*/{_DECODING}")):
            with suppress(OSError, ValueError):
                if (folder / _DECODING).read_text(encoding="utf-8") == _decoding_text(decoding, shape):
                    self._add(folder, wanted, shape)

    def __len__(self) -> int:
        return len(self._found)

    def get(self, digest: np.ndarray) -> np.ndarray | None:
        """Return the pixels of an image, uint8 [C, R, R], if they are known."""
        pixels, row, checksum = self._found.get(digest.tobytes(), (None, 0, None))
        if pixels is None or (checksum is not None and _checksum(pixels[row]) != checksum):
            return None
        return pixels[row]

    def _add(self, folder: Path, wanted: set[bytes], shape: Sequence[int]) -> None:
        records = _read_records(folder)
        count = min(len(records), (folder / _PIXELS).stat().st_size // int(np.prod(shape)))
        if count == 0:
            return
        # The machine may have crashed before the pixels of an interrupted call were on disk.
        is_trusted = is_complete(folder)
        pixels = _map_pixels(folder, (count, *shape))
        for row, record in enumerate(records[:count]):
            digest = record[:DIGEST_BYTES].tobytes()
            if digest in wanted:
                self._found.setdefault(digest, (pixels, row, None if is_trusted else record[DIGEST_BYTES:].tobytes()))


@dataclass(frozen=True)
class Chunk:
    """Decoded images, and the digests of the bytes that they came from.

    Args:
        images: uint8 [B, C, R, R].
        digests: uint8 [B, 16].
    """

    images: np.ndarray
    digests: np.ndarray


def write_pixels(folder: Path, chunks: Iterable[Chunk], *, count: int, shape: Sequence[int], decoding: str) -> Path:
    """Write the pixels of a cache folder, first to a temporary one: it is complete or absent.

    Args:
        folder: Target folder; replaced if it exists and is not complete.
        chunks: The images, up to `count`.
        count: Number of images if all can be used.
        shape: Shape of an image, [C, R, R].
        decoding: How they were decoded.

    Raises:
        OSError: The disk is too small; says how many bytes are needed. Nothing is left behind.
        ValueError: There are more images than `count`.
    """
    needed_bytes = count * (int(np.prod(shape)) + DIGEST_BYTES + _CHECKSUM_BYTES) + _SPARE_BYTES
    _check_free_space(folder.parent, needed_bytes)
    try:
        written = 0

        def is_equal(there: Path) -> bool:
            return is_complete(there, written)

        with replacing_folder(folder, is_complete=is_equal, is_worth_keeping=_is_no_disk_error) as aside:
            (aside / _DECODING).write_text(_decoding_text(decoding, shape), encoding="utf-8")
            written, pixels = _write_chunks(aside, chunks)
            if written > count:
                raise ValueError(f"{written} images were prepared, but {count} were announced")
            about = {"shape": [written, *shape], "pixels": pixels}
            (aside / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise _disk_full(folder.parent, needed_bytes) from error
        raise
    return folder


def write_view(folder: Path, *, labels: np.ndarray, label_names: Sequence[str], description: dict[str, Any]) -> Images:
    """Write labels and facts of one dataset beside the pixels, unless they are there.

    Args:
        folder: A complete cache folder.
        labels: float32 [N, L].
        label_names: Names of the L columns.
        description: See `Images`.

    Raises:
        OSError: The disk is full.
        ValueError: The number of labels does not match the number of images.
    """
    facts = json.dumps({"label_names": list(label_names), "description": description}, indent=2, ensure_ascii=False)
    key = hashlib.sha256(facts.encode())
    key.update(np.ascontiguousarray(labels).data)
    view = f"view-{key.hexdigest()[:16]}"
    if not _is_view(folder, view, labels, facts):
        with replacing(folder / f"{view}.npy") as aside, aside.open("wb") as file:
            np.save(file, labels)
        with replacing(folder / f"{view}.json") as aside:
            aside.write_text(facts, encoding="utf-8")
    with suppress(OSError):  # the time of the last use, for `fagan-hf data --cache`
        os.utime(folder / _ABOUT)
    images = Images(folder, view)
    if images.labels.shape != (len(images), len(images.label_names)):
        raise ValueError(f"the labels have shape {images.labels.shape} for {len(images)} images")
    return images


# Looking after the caches.


@dataclass(frozen=True)
class CacheEntry:
    """Something in the folder of caches.

    Attributes:
        path: File or folder.
        kind: What it holds, in words.
        size_bytes: Bytes on disk.
        used: When it was last used [seconds since 1970].
    """

    path: Path
    kind: str
    size_bytes: int
    used: float


def list_caches(root: Path) -> list[CacheEntry]:
    """List what is in the folder of caches, largest first."""
    entries = []
    for path in root.iterdir() if root.is_dir() else ():
        kind = _kind(path)
        if kind is not None:
            files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
            about = path / _ABOUT if (path / _ABOUT).is_file() else path
            entries.append(CacheEntry(path, kind, sum(file.stat().st_size for file in files), about.stat().st_mtime))
    return sorted(entries, key=lambda entry: -entry.size_bytes)


def clear_caches(root: Path) -> tuple[int, list[Path]]:
    """Delete everything in the folder of caches.

    Returns:
        The number of bytes freed, and what could not be deleted, because a program on Windows is using it.
    """
    freed, left = 0, []
    for entry in list_caches(root):
        if entry.path.is_dir():
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            with suppress(OSError):
                entry.path.unlink()
        if entry.path.exists():
            left.append(entry.path)
        else:
            freed += entry.size_bytes
    return freed, left


def _kind(path: Path) -> str | None:
    """Recognize what is ours in the folder of caches, so that nothing else is ever deleted."""
    if (path / _ABOUT).is_file() and (path / _PIXELS).is_file():
        shape = _read_shape(path)
        return f"{shape[0]:,} images, {shape[2]}x{shape[3]}x{shape[1]}" if shape else "damaged images"
    if path.name.endswith(".partial") and (path / _DECODING).is_file():
        return "images of an interrupted call"
    if path.name == UNPACKED and path.is_dir():
        return "decompressed archives"
    if path.name.startswith("features-") and path.suffix == ".safetensors":
        return "features of real images"
    return "which files were read" if path.name == MEMORY else None


def _read_shape(folder: Path) -> list[int] | None:
    try:
        shape = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))["shape"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return shape if isinstance(shape, list) and len(shape) == 4 else None


# Files of a cache folder.


def _decoding_text(decoding: str, shape: Sequence[int]) -> str:
    return json.dumps({"decoding": decoding, "shape": list(shape)})


def _map_pixels(folder: Path, shape: Sequence[int]) -> np.ndarray:
    return np.memmap(folder / _PIXELS, np.uint8, "r", shape=tuple(shape))


def _read_records(folder: Path) -> np.ndarray:
    """Read the records of a cache folder, uint8 [N, 24]."""
    length = DIGEST_BYTES + _CHECKSUM_BYTES
    data = (folder / _ROWS).read_bytes()
    return np.frombuffer(data[: len(data) // length * length], np.uint8).reshape(-1, length)


def _write_chunks(folder: Path, chunks: Iterable[Chunk]) -> tuple[int, str]:
    """Write pixels and records; return the number of images, and the SHA-256 of all pixels."""
    written, content = 0, hashlib.sha256()
    # Plain writes: on a full disk they raise OSError; a writable memory map would crash with SIGBUS.
    with (folder / _PIXELS).open("xb") as pixels, (folder / _ROWS).open("xb") as rows:
        for chunk in chunks:
            for image, digest in zip(chunk.images, chunk.digests, strict=True):
                data = np.ascontiguousarray(image).data
                content.update(data)
                pixels.write(data)
                rows.write(digest.tobytes() + _checksum(image))
            written += len(chunk.images)
            pixels.flush()
            rows.flush()
    return written, content.hexdigest()


def _checksum(image: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=_CHECKSUM_BYTES).digest()


def _is_view(folder: Path, view: str, labels: np.ndarray, facts: str) -> bool:
    try:
        return (folder / f"{view}.json").read_text(encoding="utf-8") == facts and np.array_equal(
            np.load(folder / f"{view}.npy"), labels
        )
    except (OSError, ValueError, EOFError):
        return False


def _is_no_disk_error(error: BaseException) -> bool:
    """Return whether the images decoded before an error should stay: not if it is the disk's."""
    return not isinstance(error, OSError)


def _check_free_space(root: Path, needed_bytes: int) -> None:
    if shutil.disk_usage(root).free < needed_bytes:
        raise _disk_full(root, needed_bytes)


def _disk_full(root: Path, needed_bytes: int) -> OSError:
    return OSError(
        errno.ENOSPC,
        f"Not enough disk space for the prepared images: they need {needed_bytes:,} bytes, but "
        f"{shutil.disk_usage(root).free:,} are free. Free some space, or set the environment variable FAGAN_CACHE "
        "to a folder on another disk",
        str(root),
    )
