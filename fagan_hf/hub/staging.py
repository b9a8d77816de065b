"""Snapshots of a run folder for publishing, because training may replace its files during the upload."""

import os
import shutil
import tempfile
from pathlib import Path

from fagan_hf.hub.repository import CARD, HISTORY, newest_checkpoint, published_files

PREFIX = ".push-"


def take_snapshot(folder: Path, *, with_training_state: bool) -> Path:
    """Snapshot the published files of a run inside its folder, because training may replace them during a push.

    Args:
        folder: The run folder; its files are only replaced as a whole, except the history, which is appended to.
        with_training_state: Include the newest checkpoint.

    Returns:
        A folder named ``.push-...``, to be removed by the caller.

    Raises:
        OSError: The folder can't be read or written to.
    """
    snapshot = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
    try:
        for name, path in _files_to_lay_aside(folder, with_training_state).items():
            target = snapshot / name
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(path, target, is_appended_to=name == HISTORY)
    except BaseException:
        shutil.rmtree(snapshot, ignore_errors=True)
        raise
    return snapshot


def is_up_to_date(snapshot: Path, folder: Path) -> bool:
    """Return whether a snapshot still matches the run folder, so that all its files are from one moment."""
    for copy in snapshot.rglob("*"):
        path = folder / copy.relative_to(snapshot)
        if copy.is_file() and copy.name != HISTORY and not (path.is_file() and _is_same(copy, path)):
            return False
    return True


def remove_snapshots(folder: Path) -> None:
    """Remove the snapshots that killed sessions have left in a run folder."""
    for abandoned in folder.glob(f"{PREFIX}*"):
        shutil.rmtree(abandoned, ignore_errors=True)


def _files_to_lay_aside(folder: Path, with_training_state: bool) -> dict[str, Path]:
    files = published_files(folder)
    if (folder / CARD).is_file():
        files[CARD] = folder / CARD
    checkpoint = newest_checkpoint(folder) if with_training_state else None
    if checkpoint is not None:
        files |= {path.relative_to(folder).as_posix(): path for path in checkpoint.iterdir()}
    return files


def _link(path: Path, target: Path, *, is_appended_to: bool) -> None:
    if not is_appended_to:
        try:
            os.link(path, target)
            return
        except OSError:  # the file system does not support links
            pass
    shutil.copy2(path, target)


def _is_same(copy: Path, path: Path) -> bool:
    was, now = copy.stat(), path.stat()
    # Without links, the copy has the modification time of its original.
    return os.path.samestat(was, now) or was.st_mtime_ns == now.st_mtime_ns
