"""Cache prepared images on disk: a folder that is complete or absent, memory-mapped when it is read.

A cache folder contains `images.npy` (uint8 [N, 3, R, R]), `labels.npy` (float32 [N, L]) and `about.json`. It is
written to a temporary folder, synced and renamed, so that an interruption never leaves a partial cache.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from fagan_hf.utils.files import remove_abandoned_folders, replacing_folder

if TYPE_CHECKING:
    import torch

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_SPARE_BYTES = 1 << 20  # for headers, about.json and the file system's blocks


class Images:
    """Prepared images on disk, memory-mapped: opened instantly, and shared by processes.

    Attributes:
        array: uint8 [N, 3, R, R], read only.
        labels: float32 [N, L], 0 or 1.
        label_names: Names of the L columns.
        fingerprint: Identifies source and preprocessing: the same fingerprint means the same pixels.
        content: SHA-256 of pixels and labels, independent of their source.
        description: Facts for a card: dataset, split, revision, license, attribution, count, preprocessing,
            and the options that differ from the defaults.
        folder: The cache folder.
    """

    def __init__(self, folder: Path) -> None:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        self.folder = folder
        self.array: np.memmap = np.load(folder / "images.npy", mmap_mode="r")
        self.labels: np.ndarray = np.load(folder / "labels.npy")
        self.label_names: tuple[str, ...] = tuple(about["label_names"])
        self.fingerprint: str = about["fingerprint"]
        self.content: str = about["content"]
        self.description: dict[str, Any] = about["description"]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of an image, (3, R, R)."""
        return (3, *self.array.shape[2:])

    def __len__(self) -> int:
        return len(self.array)

    def __repr__(self) -> str:
        size = "x".join(map(str, self.array.shape))
        return f"<Images {self.description['dataset']}: {size}, labels {self.label_names}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Images, (self.folder,)  # a process that unpickles it maps the file again instead of copying it

    def batch(self, indices: Sequence[int] | np.ndarray) -> "tuple[torch.Tensor, torch.Tensor]":
        """Copy some images and their labels from the file.

        Args:
            indices: B positions in [0, N), in any order; negative ones count from the end.

        Returns:
            uint8 [B, 3, R, R] in [0, 255], and float32 [B, L] of 0 and 1.

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


def open_cache(folder: Path) -> Images | None:
    """Open a cache folder if it is complete: no file is missing, and each has the expected length."""
    try:
        images = Images(folder)
        is_complete = (
            images.array.dtype == np.uint8
            and images.labels.shape == (len(images), len(images.label_names))
            and (folder / "images.npy").stat().st_size == images.array.offset + images.array.nbytes
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    return images if is_complete else None


@contextmanager
def only_one_process(folder: Path, *, tell: bool) -> Iterator[None]:
    """Let one process at a time prepare a cache folder; the others wait here, then find it ready.

    The lock is released when the process that holds it ends, however it ends. So any temporary folder that exists
    once we hold the lock was left by a process that died, and is removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if tell:
            print(f"Waiting for another process that is preparing {folder} ...", file=sys.stderr)
        lock.acquire()
    try:
        remove_abandoned_folders(folder)
        yield
    finally:
        lock.release()


def write_cache(
    folder: Path,
    chunks: Iterable[np.ndarray],
    *,
    shape: tuple[int, int, int, int],
    labels: np.ndarray,
    about: dict[str, Any],
) -> Images:
    """Write a cache folder, first to a temporary one: it is complete or absent.

    Args:
        folder: Target folder; replaced if it exists.
        chunks: uint8 [any, 3, R, R] each, together `shape`.
        shape: Shape of all images, [N, 3, R, R].
        labels: float32 [N, L].
        about: `label_names`, `fingerprint`, `description`.

    Raises:
        OSError: The disk is too small; says how many bytes are needed. Nothing is left behind.
        ValueError: The number of images in the chunks, or of labels, does not match `shape`.
    """
    needed_bytes = int(np.prod(shape)) + labels.nbytes + _SPARE_BYTES
    _check_free_space(folder.parent, needed_bytes)
    try:
        with replacing_folder(folder, is_complete=_is_complete) as aside:
            with (aside / "images.npy").open("xb") as file:
                # Plain writes: on a full disk they raise OSError; a writable memory map would crash with SIGBUS.
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                content = hashlib.sha256(json.dumps([shape, about["label_names"]]).encode())
                for chunk in chunks:
                    pixels = np.ascontiguousarray(chunk).data
                    content.update(pixels)
                    file.write(pixels)
                content.update(np.ascontiguousarray(labels).data)
            np.save(aside / "labels.npy", labels)
            about = {**about, "content": content.hexdigest()}
            (aside / "about.json").write_text(json.dumps(about, indent=2, ensure_ascii=False), encoding="utf-8")
            if not _is_complete(aside):
                raise ValueError("the chunks and labels do not match the declared shape")
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise _disk_full(folder.parent, needed_bytes) from error
        raise
    return Images(folder)


def _is_complete(folder: Path) -> bool:
    return open_cache(folder) is not None


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
