"""Identify images by their bytes, so that a moved folder or a new modification time costs no second decoding.

The digest of each file is remembered under its path, size and modification time, so an unchanged file is read once.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fagan_hf.data.archives import UnreadableMemberError
from fagan_hf.data.files import DataFile
from fagan_hf.utils.devices import available_cores

DIGEST_BYTES = 16
MEMORY = "files.sqlite"  # in the folder of caches
# Files by stamp, and what is known about contents by digest and question.
_SCHEMA = """
    CREATE TABLE IF NOT EXISTS digests (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS facts (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""
_WAIT_SECONDS = 20.0
_FEW_FILES = 2_000  # read so fast that a progress bar would only flicker
_SAVE_FILES = 4_096


def digest(content: bytes) -> bytes:
    """Return the digest of the bytes of an image, 16 bytes."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def as_array(digests: Iterable[bytes]) -> np.ndarray:
    """Stack digests as uint8 [N, 16]."""
    return np.array(bytearray(b"".join(digests)), np.uint8).reshape(-1, DIGEST_BYTES)


def numbered_digests(identity: str, numbers: Iterable[int]) -> np.ndarray:
    """Return digests of images that have no files: rows or drawings, identified by number; uint8 [N, 16]."""
    return as_array(digest(f"{identity}\t{number}".encode()) for number in numbers)


def content_digests(files: Sequence[DataFile], root: Path, *, progress: bool) -> np.ndarray:
    """Return the digests of files, reading those that may have changed since the last call.

    Args:
        files: N files.
        root: Folder of caches, which holds the memory of earlier calls.
        progress: Whether to show a progress bar on stderr if many files must be read.

    Returns:
        uint8 [N, 16]. A file that can't be read has the digest of its stamp: decoding it will tell what is wrong.
    """
    stamps = [digest(f"{file.location}\t{file.version}".encode(errors="surrogateescape")) for file in files]
    found = _recall(root, "digests", stamps)
    new = [index for index, stamp in enumerate(stamps) if stamp not in found]
    is_shown = progress and len(new) >= _FEW_FILES
    with (
        ThreadPoolExecutor(2 * available_cores()) as pool,  # waits for the disk more than it computes
        tqdm(total=len(new), desc="Looking at files", unit="file", disable=not is_shown) as bar,
    ):
        for start in range(0, len(new), _SAVE_FILES):
            part = new[start : start + _SAVE_FILES]
            fresh = {}
            for index, value in zip(part, pool.map(lambda index: _read_digest(files[index]), part), strict=True):
                if value is not None:
                    fresh[stamps[index]] = value
                bar.update()
            _remember(root, "digests", fresh)
            found |= fresh
    return as_array(found.get(stamp, stamp) for stamp in stamps)


def recall_facts(root: Path, digests: np.ndarray, question: str) -> dict[int, Any]:
    """Return what `remember_facts` has stored about images, by their position.

    Args:
        root: Folder of caches.
        digests: uint8 [N, 16].
        question: What is asked about each.
    """
    keys = [_fact_key(row, question) for row in digests]
    found = _recall(root, "facts", keys)
    facts = {}
    for index, key in enumerate(keys):
        if key in found:
            with suppress(ValueError):
                facts[index] = json.loads(found[key])
    return facts


def remember_facts(root: Path, digests: np.ndarray, question: str, answers: Mapping[int, Any]) -> None:
    """Store facts about images, JSON, by their position in `digests`."""
    _remember(root, "facts", {_fact_key(digests[at], question): json.dumps(answers[at]).encode() for at in answers})


def _fact_key(row: np.ndarray, question: str) -> bytes:
    return digest(row.tobytes() + question.encode())


def _read_digest(file: DataFile) -> bytes | None:
    try:
        return digest(file.read())
    except (OSError, UnreadableMemberError):
        return None


# The memory only saves time: whatever is wrong with its file, the digests are read again.


def _recall(root: Path, table: str, keys: Sequence[bytes]) -> dict[bytes, bytes]:
    try:
        with _database(root) as database:
            return {key: value for key, value in _select(database, table, list(set(keys))) if isinstance(value, bytes)}
    except (sqlite3.Error, OSError):
        return {}


def _select(
    database: sqlite3.Connection, table: str, keys: list[bytes], at_once: int = 500
) -> Iterator[tuple[bytes, bytes]]:
    for start in range(0, len(keys), at_once):
        part = keys[start : start + at_once]
        marks = ",".join("?" * len(part))
        yield from database.execute(f"SELECT key, value FROM {table} WHERE key IN ({marks})", part)


def _remember(root: Path, table: str, fresh: Mapping[bytes, bytes]) -> None:
    if not fresh:
        return
    try:
        with _database(root) as database, database:
            database.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", fresh.items())
    except sqlite3.OperationalError:
        pass  # locked for long, or on a disk that is full or does not support locks
    except sqlite3.DatabaseError:
        (root / MEMORY).unlink(missing_ok=True)  # damaged: the next call begins a new one
    except OSError:
        pass


@contextmanager
def _database(root: Path) -> Iterator[sqlite3.Connection]:
    root.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(root / MEMORY, timeout=_WAIT_SECONDS)) as database:
        database.executescript(_SCHEMA)
        yield database
