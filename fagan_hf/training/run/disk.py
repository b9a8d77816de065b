"""A full disk: wait for free space instead of losing a run."""

import errno
import time
from collections.abc import Callable
from pathlib import Path
from shutil import disk_usage
from typing import TypeVar

FULL = {errno.ENOSPC, errno.EDQUOT}
PATIENCE_SECONDS = 600.0
PAUSE_SECONDS = 5.0

T = TypeVar("T")


def when_there_is_room(
    write: Callable[[], T], folder: Path, *, tell: Callable[[str], None], is_stopped: Callable[[], bool]
) -> T:
    """Call a function that writes, and retry while the disk is full.

    Args:
        write: Leaves nothing half written when it raises, so it can be called again.
        folder: Target folder, for the message.
        tell: Shows a message to the user.
        is_stopped: Returns whether to stop waiting.

    Raises:
        OSError: The disk is still full after `PATIENCE_SECONDS`, or it is another error.
    """
    deadline = None
    while True:
        try:
            return write()
        except OSError as error:
            if error.errno not in FULL:
                raise
            if deadline is None:
                deadline = time.monotonic() + PATIENCE_SECONDS
                there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
                free = disk_usage(there).free / 2**20
                tell(
                    f"The disk of {folder} is full ({free:.1f} MB free). Existing checkpoints are kept; waiting "
                    f"{PATIENCE_SECONDS / 60:.0f} minutes for free space ..."
                )
            if is_stopped() or time.monotonic() >= deadline:
                raise
            time.sleep(PAUSE_SECONDS)
