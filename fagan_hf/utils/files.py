"""Atomic writes of files and folders, and hashes."""

import errno
import glob
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# Errors of file systems that don't support `fsync`: Windows refuses it for read-only handles and can't open a folder,
# some network drives refuse it altogether. Errors of the disk, such as ENOSPC and EIO, are not among them.
_NO_SYNC = {errno.EBADF, errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextmanager
def replacing(path: Path, *, make_folder: bool = False) -> Iterator[Path]:
    """Write a temporary file and move it into place only when it is complete and on disk.

    Args:
        path: Where the file goes.
        make_folder: Create missing parent folders. Otherwise they are an error, so that a name from an external source
            never creates folders.

    Yields:
        The path to write to, in the same folder. If the block raises it is removed, and ``path`` is unchanged.
    """
    if make_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield aside
        sync(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def replacing_folder(
    folder: Path,
    *,
    is_complete: Callable[[Path], bool] = lambda folder: False,
    is_worth_keeping: Callable[[BaseException], bool] = lambda error: False,
) -> Iterator[Path]:
    """Fill a temporary folder and move it into place only when it is complete and on disk.

    Args:
        folder: Where it goes; its parent must exist.
        is_complete: Returns whether an existing folder is equally complete and is kept; otherwise it is replaced.
        is_worth_keeping: Returns whether the temporary folder stays, for `abandoned_folders`, after an error.

    Yields:
        The folder to fill. If the block raises it is removed by default, and ``folder`` is unchanged.
    """
    # Processes on several machines may share a disk: process ids would not be unique.
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        aside.mkdir()
        yield aside
        for path in (*aside.iterdir(), aside):
            sync(path)
        if not is_complete(folder):
            shutil.rmtree(folder, ignore_errors=True)
            try:
                aside.rename(folder)
            except OSError:  # another process was first
                if not is_complete(folder):
                    raise
        sync(folder.parent)
    except BaseException as error:
        if not is_worth_keeping(error):
            shutil.rmtree(aside, ignore_errors=True)
        raise
    else:
        shutil.rmtree(aside, ignore_errors=True)


def abandoned_folders(folder: Path) -> list[Path]:
    """List temporary folders of killed processes next to a folder, if no other process is writing."""
    return list(folder.parent.glob(f".{glob.escape(folder.name)}.*.partial"))


def remove_abandoned_folders(folder: Path) -> None:
    """Remove temporary folders of killed processes next to a folder; no other process may be writing."""
    for abandoned in abandoned_folders(folder):
        shutil.rmtree(abandoned, ignore_errors=True)


def sync(path: Path) -> None:
    """Flush a file or a folder to disk, if its file system supports that.

    Raises:
        OSError: It can't be written: a full disk, for example.
    """
    descriptor = _open_to_sync(path)
    if descriptor is None:
        return
    try:
        sync_open_file(descriptor)
    finally:
        os.close(descriptor)


def sync_open_file(descriptor: int) -> None:
    """Flush an open file to disk, if its file system supports that.

    Raises:
        OSError: It can't be written: a full disk, for example.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _open_to_sync(path: Path) -> int | None:
    """Open a file for writing, which Windows needs for `fsync`, or else for reading; ``None`` if neither is allowed."""
    for flags in (os.O_RDONLY,) if path.is_dir() else (os.O_RDWR, os.O_RDONLY):
        try:
            return os.open(path, flags)
        except OSError as error:
            if error.errno not in (*_NO_SYNC, errno.EROFS):
                raise
    return None


def remove_abandoned(folder: Path) -> None:
    """Remove temporary files of killed processes in a folder; those of running processes are kept."""
    for path in folder.glob(".*"):
        process = path.suffix.removeprefix(".")
        if process.isdecimal() and path.is_file() and not _is_alive(int(process)):
            path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    if os.name == "nt":  # where signal 0 would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):  # a number that no process can have
        return False
    except OSError:
        return True
    return True


def save_tensors(tensors: "Mapping[str, Tensor]", path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, raising the system's `OSError` instead of the library's error.

    Raises:
        OSError: A full disk, for example.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(dict(tensors), path, metadata=metadata)
        path.chmod(mode)  # the library makes a file that only its owner can read
    except SafetensorError as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits.

    Raises:
        OSError: It can't be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
