"""Move folders between machines as small files, because some copy nothing larger than a few megabytes.

Example:
    split(run_folder, ["generator"], folder, "generator")  # generator-000.part, ..., generator.json
    join(folder, "generator", run_folder)
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from fagan_hf.utils.files import replacing, sha256

PART_BYTES = 15 * 2**20


def split(root: Path, names: Iterable[str], folder: Path, prefix: str, part_bytes: int = PART_BYTES) -> list[Path]:
    """Write files and folders as one archive in parts, replacing earlier ones.

    Args:
        root: Folder that the names are relative to.
        names: Files and folders; missing ones are left out.
        folder: Folder of the parts, created if missing.
        prefix: Start of the parts' names.
        part_bytes: Size of a part, except the last.

    Returns:
        The parts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Without its index the parts are no archive: an interruption leaves none rather than a mixture of two.
    _index(folder, prefix).unlink(missing_ok=True)
    for old in folder.glob(f"{prefix}-*.part"):
        old.unlink()
    writer = _PartWriter(folder, prefix, part_bytes)
    with tarfile.open(fileobj=writer, mode="w|") as archive:
        for name in names:
            if (root / name).exists():
                archive.add(root / name, name)
    hashes = writer.finish()
    with replacing(_index(folder, prefix)) as path:
        path.write_text(json.dumps(hashes, indent=2) + "\n", encoding="utf-8")
    return [folder / name for name in hashes]


def has_parts(folder: Path, prefix: str) -> bool:
    """Return whether a folder has an archive in parts."""
    return _index(folder, prefix).is_file()


def join(folder: Path, prefix: str, root: Path) -> None:
    """Restore the files of an archive in parts.

    Args:
        folder: Folder of the parts.
        prefix: Start of the parts' names.
        root: Folder to restore into, created if missing.

    Raises:
        FileNotFoundError: A part is missing.
        ValueError: A part was changed or cut off.
    """
    hashes: dict[str, str] = json.loads(_index(folder, prefix).read_text(encoding="utf-8"))
    if missing := [name for name in hashes if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}; copy all {len(hashes)} parts")
    for name, expected in hashes.items():
        if sha256(folder / name) != expected:
            raise ValueError(f"{folder / name} does not match its hash in {_index(folder, prefix).name}; copy it again")
    root.mkdir(parents=True, exist_ok=True)
    reader = _PartReader([folder / name for name in hashes])
    with tarfile.open(fileobj=reader, mode="r|") as archive:
        archive.extractall(root, filter="data")


def _index(folder: Path, prefix: str) -> Path:
    return folder / f"{prefix}.json"


class _PartWriter(io.RawIOBase):
    def __init__(self, folder: Path, prefix: str, part_bytes: int):
        self._folder, self._prefix, self._part_bytes = folder, prefix, part_bytes
        self._waiting = bytearray()
        self._hashes: dict[str, str] = {}

    def writable(self) -> bool:
        return True

    def write(self, data: bytes, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        self._waiting += data
        while len(self._waiting) >= self._part_bytes:
            self._write_part()
        return len(data)

    def finish(self) -> dict[str, str]:
        """Write the last part; return the hash of each."""
        if self._waiting:
            self._write_part()
        return self._hashes

    def _write_part(self) -> None:
        part = bytes(self._waiting[: self._part_bytes])
        del self._waiting[: self._part_bytes]
        name = f"{self._prefix}-{len(self._hashes):03d}.part"
        (self._folder / name).write_bytes(part)
        self._hashes[name] = hashlib.sha256(part).hexdigest()


class _PartReader(io.RawIOBase):
    def __init__(self, parts: Sequence[Path]):
        self._parts = [*parts]
        self._waiting = io.BytesIO()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        found = self._waiting.read(size)
        while not found and self._parts:
            self._waiting = io.BytesIO(self._parts.pop(0).read_bytes())
            found = self._waiting.read(size)
        return found
