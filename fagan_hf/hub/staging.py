"""What is published of a run, laid aside: a training may replace its files while they go up."""

import os
import shutil
import tempfile
from pathlib import Path

from fagan_hf.hub.repository import CARD, HISTORY, newest_checkpoint, published_files

PREFIX = ".push-"


def take_snapshot(folder: Path, *, with_training_state: bool) -> Path:
    """Lay what is published of a run aside, in the run's folder: a training may replace its files during a push.

    Args:
        folder: The run's; files in it are only ever replaced by whole new ones, but for the history.
        with_training_state: The newest checkpoint as well?

    Returns:
        A folder named ``.push-...``, the caller's to remove.

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
    """Say whether a snapshot holds the files that the run's folder still has, all of one moment."""
    for copy in snapshot.rglob("*"):
        path = folder / copy.relative_to(snapshot)
        if copy.is_file() and copy.name != HISTORY and not (path.is_file() and _is_same(copy, path)):
            return False
    return True


def remove_snapshots(folder: Path) -> None:
    """Remove what sessions that were killed have left in a run's folder."""
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
        except OSError:  # a file system without links
            pass
    shutil.copy2(path, target)


def _is_same(copy: Path, path: Path) -> bool:
    was, now = copy.stat(), path.stat()
    # Where there are no links, the copy has the time of its original.
    return os.path.samestat(was, now) or was.st_mtime_ns == now.st_mtime_ns
