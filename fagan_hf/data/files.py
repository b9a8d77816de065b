"""List the files of a dataset: in a folder, in archives, or both; and count what is not read, by reason."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from fagan_hf.data.archives import Member, Refused, is_archive, list_members
from fagan_hf.data.decode import image_suffixes

TABLE_SUFFIXES = (".csv", ".jsonl", ".txt", ".parquet")
_SIDECAR_SUFFIXES = (".json", ".cls", ".txt", ".caption")  # of WebDataset, beside each image
_NAMED_KINDS = 6
_HINTS = {
    ".heic": "install pillow-heif",
    ".heif": "install pillow-heif",
    ".svg": "a drawing: save it as PNG",
    ".dng": "a raw photograph: save it as JPEG",
    ".cr2": "a raw photograph: save it as JPEG",
    ".nef": "a raw photograph: save it as JPEG",
    ".arw": "a raw photograph: save it as JPEG",
    ".mp4": "a video: save its frames as PNG",
    ".mov": "a video: save its frames as PNG",
}


@dataclass(frozen=True)
class DataFile:
    """A file of a dataset.

    Args:
        name: Relative to the dataset, with forward slashes; the folders in it may be splits and classes.
        content: Where its bytes are.
        location: Where it is on this machine.
        version: Changes when the file may have changed, without reading it.
    """

    name: str
    content: Path | Member
    location: str
    version: str

    @property
    def suffix(self) -> str:
        """The suffix of the name in lower case, with the dot."""
        return PurePosixPath(self.name).suffix.lower()

    @property
    def stem(self) -> str:
        """The name up to the first dot of its last part, which WebDataset calls the key."""
        folder, slash, last = self.name.rpartition("/")
        return folder + slash + last.partition(".")[0]

    def read(self) -> bytes:
        """Return the contents.

        Raises:
            UnreadableMemberError: A damaged member of an archive.
            OSError: The file can't be read.
        """
        return self.content.read_bytes() if isinstance(self.content, Path) else self.content.read()


@dataclass
class Found:
    """The files of a dataset, sorted by name.

    Attributes:
        images: By their suffixes.
        tables: Files beside images that may describe them.
        sidecars: Files that describe the image of the same key, as in WebDataset.
        unread: Number of other files by reason.
        first_unread: The first file of each reason.
    """

    images: list[DataFile] = field(default_factory=list)
    tables: list[DataFile] = field(default_factory=list)
    sidecars: list[DataFile] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)
    first_unread: dict[str, str] = field(default_factory=dict)

    def leave_out(self, name: str, reason: str) -> None:
        """Count a file that is not read."""
        self.unread[reason] += 1
        self.first_unread.setdefault(reason, name)


def find_files(place: Path, *, unpacked: Path) -> Found:
    """List the images under a folder or in an archive, and the tables beside them.

    Links to files and folders are followed, except to a folder that was listed already, which also ends cycles. Hidden
    files and folders are skipped. An archive inside a folder counts as a folder with its name, unless it is a shard of
    a WebDataset.

    Args:
        place: A folder, or a zip or tar file.
        unpacked: Folder for decompressed copies of compressed tar files.

    Raises:
        ValueError: An archive is damaged or looks like a zip bomb.
        OSError: A folder can't be read, or the disk is full.
    """
    found = Found()
    candidates: list[DataFile] = []
    if place.is_dir():
        archives: list[Path] = []
        for path in _walk(place, found):
            (archives.append(path) if is_archive(path) else candidates.append(_on_disk(path, place)))
        for archive in archives:
            candidates += _shard(archive, archive.relative_to(place), found, unpacked)
    else:
        candidates = list(_in_archive(place, found, unpacked))
    keys = {file.stem for file in candidates if file.suffix in image_suffixes()}
    for file in sorted(candidates, key=lambda file: _sort_key(file.name)):
        _sort_in(file, found, keys)
    return found


def describe_unread(found: Found) -> str:
    """Describe the files that are not read, such as "98 files not read: 90 .heic (install pillow-heif), 3 .jpg_"."""
    count = sum(found.unread.values())
    if not count:
        return ""
    kinds = [_describe_kind(reason, number) for reason, number in found.unread.most_common(_NAMED_KINDS)]
    more = len(found.unread) - _NAMED_KINDS
    kinds += [f"{more} other kinds"] if more > 0 else []
    return f"{count:,} file{'s' * (count != 1)} not read: {', '.join(kinds)}"


def _describe_kind(reason: str, count: int) -> str:
    hint = _HINTS.get(reason)
    return f"{count:,} {reason}" + (f" ({hint})" if hint else "")


def _sort_key(name: str) -> tuple[str, ...]:
    return tuple(name.split("/"))  # as sorted paths are


def _sort_in(file: DataFile, found: Found, keys: set[str]) -> None:
    is_sidecar = file.suffix in _SIDECAR_SUFFIXES and file.stem in keys
    if file.suffix in image_suffixes():
        found.images.append(file)
    elif is_sidecar:
        found.sidecars.append(file)
    elif file.suffix in TABLE_SUFFIXES:
        found.tables.append(file)
    else:
        found.leave_out(file.name, file.suffix or "without suffix")


def _walk(root: Path, found: Found) -> Iterator[Path]:
    """Yield the visible files under a folder, each folder once, even if links form a cycle."""

    def fail(error: OSError) -> None:
        raise error  # os.walk would silently skip what it can't read

    seen = {_identity(root)}
    for folder, subfolders, files in os.walk(root, onerror=fail, followlinks=True):
        new = []
        for name in sorted(subfolders):
            path = Path(folder, name)
            if name.startswith("."):
                continue
            identity = _identity(path)
            if identity in seen:
                found.leave_out(str(path), "links to folders listed already")
                continue
            seen.add(identity)
            new.append(name)
        subfolders[:] = new
        for name in files:
            path = Path(folder, name)
            if name.startswith("."):
                continue
            if path.is_file():
                yield path
            else:
                found.leave_out(str(path), "broken links" if path.is_symlink() else "special files")


def _identity(folder: Path) -> tuple[int, int]:
    facts = folder.stat()
    return facts.st_dev, facts.st_ino


def _on_disk(path: Path, root: Path) -> DataFile:
    facts = path.stat()
    version = f"{facts.st_size}\t{facts.st_mtime_ns}"
    return DataFile(path.relative_to(root).as_posix(), path, str(path.resolve()), version)


def _in_archive(archive: Path, found: Found, unpacked: Path) -> Iterator[DataFile]:
    facts = archive.stat()
    version = f"{facts.st_size}\t{facts.st_mtime_ns}"
    for member in list_members(archive, unpacked=unpacked):
        parts = PurePosixPath(member.name.replace("\\", "/")).parts
        if any(part.startswith(".") or part == "__MACOSX" for part in parts) and isinstance(member, Member):
            continue  # hidden, as in a folder
        if isinstance(member, Refused):
            found.leave_out(member.name, member.reason)
        else:
            location = f"{archive.resolve()}\t{member.name}\t{member.offset}"
            yield DataFile("/".join(parts), member, location, f"{version}\t{member.size}")


def _shard(archive: Path, name: Path, found: Found, unpacked: Path) -> list[DataFile]:
    """List an archive inside a folder: as a folder of its name, or as a shard of a WebDataset."""
    files = list(_in_archive(archive, found, unpacked))
    keys = {file.stem for file in files if file.suffix in image_suffixes()}
    is_webdataset = any(file.suffix in _SIDECAR_SUFFIXES and file.stem in keys for file in files)
    folder = name.parent if is_webdataset else name.parent / name.name.partition(".")[0]
    prefix = "" if folder == Path() else folder.as_posix() + "/"
    return [replace(file, name=prefix + file.name) for file in files]
