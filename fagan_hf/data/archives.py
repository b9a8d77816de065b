"""Read images out of zip and tar archives without extracting them.

Archives come from anywhere, so nothing in them becomes a path on this machine: the names of their members only serve to
find classes and splits, and to name an image in a message.
"""

import bz2
import gzip
import hashlib
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from fagan_hf.utils.files import replacing

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")

MAX_MEMBER_BYTES = 256 << 20  # of one image
MAX_MEMBERS = 20_000_000
_MAX_RATIO = 200  # photographs hardly compress; beyond this a large member looks like a zip bomb
_ALWAYS_ALLOWED_BYTES = 16 << 20
_COPY_BYTES = 1 << 20

_DECOMPRESSORS: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.GzipFile,
    ".tgz": gzip.GzipFile,
    ".bz2": bz2.BZ2File,
    ".tbz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".txz": lzma.LZMAFile,
}


class UnreadableMemberError(ValueError):
    """A member of an archive can't be read; the message says why."""


@dataclass(frozen=True)
class Member:
    """An image inside an archive; reading opens the archive, once per process.

    Args:
        archive: Path of the archive; a tar file is not compressed.
        name: Name of the member in a zip file; for a tar file only used in messages.
        offset: Where its bytes begin in a tar file [bytes]; `None` for a zip file.
        size: Length of its contents [bytes].
    """

    archive: Path
    name: str
    offset: int | None
    size: int

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"

    def read(self) -> bytes:
        """Return the contents.

        Raises:
            UnreadableMemberError: The archive is damaged or encrypted, or the member is longer than it declares.
            OSError: The archive can't be opened.
        """
        if self.offset is not None:
            with self.archive.open("rb") as file:
                file.seek(self.offset)
                content = file.read(self.size)
        else:
            try:
                with _open_zip(self.archive, self.archive.stat().st_mtime_ns).open(self.name) as member:
                    content = member.read(self.size + 1)
            except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError, KeyError) as error:
                raise UnreadableMemberError(f"can't be read from its archive ({error})") from error
        if len(content) != self.size:
            raise UnreadableMemberError(f"has {len(content):,} bytes instead of {self.size:,}")
        return content


@dataclass(frozen=True)
class Refused:
    """A file that is not read although a dataset names it, and why."""

    name: str
    reason: str


def is_archive(path: Path) -> bool:
    """Return whether a file name is that of a supported archive."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


def list_members(archive: Path, *, unpacked: Path) -> Iterator[Member | Refused]:
    """List the files in an archive.

    Args:
        archive: A zip or tar file.
        unpacked: Folder for a decompressed copy of a compressed tar file, which has no random access.

    Yields:
        Each member, or why it is refused. Folders are left out.

    Raises:
        ValueError: It is not an archive, is damaged, or looks like a zip bomb.
        OSError: It can't be read, or the disk is full.
    """
    try:
        if archive.name.lower().endswith(".zip"):
            yield from _list_zip(archive)
        else:
            yield from _list_tar(_uncompressed(archive, unpacked))
    except (zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, EOFError) as error:
        raise ValueError(f"{archive} is damaged or not an archive: {error}") from error
    except OSError as error:
        if error.errno is not None:  # the system's; decompressors raise it for wrong data
            raise
        raise ValueError(f"{archive} is damaged or not an archive: {error}") from error


def _list_zip(archive: Path) -> Iterator[Member | Refused]:
    members = _open_zip(archive, archive.stat().st_mtime_ns).infolist()
    _check_count(archive, len(members))
    _check_ratio(archive, sum(member.file_size for member in members), archive.stat().st_size)
    for member in members:
        if member.is_dir():
            continue
        if stat.S_ISLNK(member.external_attr >> 16):
            yield Refused(member.filename, "links in archives")
        elif member.flag_bits & 1:
            yield Refused(member.filename, "encrypted")
        elif _looks_like_bomb(member.file_size, member.compress_size):
            yield Refused(member.filename, "too large when decompressed")
        else:
            yield _checked(Member(archive, member.filename, None, member.file_size))


def _list_tar(archive: Path) -> Iterator[Member | Refused]:
    with tarfile.open(archive, "r:") as file:
        for number, member in enumerate(file):
            _check_count(archive, number)
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                yield Refused(member.name, "links in archives" if member.issym() or member.islnk() else "special files")
            else:
                yield _checked(Member(archive, member.name, member.offset_data, member.size))


def _checked(member: Member) -> Member | Refused:
    """Refuse names that would lead out of a folder, and contents too large for an image."""
    path = PurePosixPath(member.name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0] or "\0" in member.name:
        return Refused(member.name, "unsafe names in archives")
    if member.size > MAX_MEMBER_BYTES:
        return Refused(member.name, f"larger than {MAX_MEMBER_BYTES >> 20} MB")
    return member


def _looks_like_bomb(size: int, compressed: int) -> bool:
    return size > _ALWAYS_ALLOWED_BYTES and size > _MAX_RATIO * max(compressed, 1)


def _check_ratio(archive: Path, size: int, compressed: int) -> None:
    if _looks_like_bomb(size, compressed):
        raise ValueError(
            f"{archive} has {compressed:,} bytes but would decompress to {size:,}: it looks like a zip bomb. "
            "If its images really compress that well, extract it and give the folder."
        )


def _check_count(archive: Path, count: int) -> None:
    if count > MAX_MEMBERS:
        raise ValueError(f"{archive} has more than {MAX_MEMBERS:,} members; split it.")


@lru_cache(maxsize=8)
def _open_zip(archive: Path, changed: int) -> zipfile.ZipFile:
    """Open a zip file once per process and version; `changed` is its modification time [ns]."""
    del changed  # only a key
    return zipfile.ZipFile(archive)


def _uncompressed(archive: Path, folder: Path) -> Path:
    """Return a tar file that allows random access: the archive itself, or a decompressed copy in a folder."""
    opener = _DECOMPRESSORS.get(archive.suffix.lower())
    if opener is None:
        return archive
    facts = archive.stat()
    key = hashlib.sha256(f"{archive.resolve()}\t{facts.st_size}\t{facts.st_mtime_ns}".encode(errors="replace"))
    copy = folder / f"{key.hexdigest()[:24]}.tar"
    if copy.is_file():
        return copy
    written = 0
    with replacing(copy, make_folder=True) as aside, closing(opener(archive)) as packed, aside.open("wb") as file:
        while chunk := packed.read(_COPY_BYTES):
            written += len(chunk)
            _check_ratio(archive, written, facts.st_size)
            file.write(chunk)
    os.utime(copy)
    return copy
