"""Push a run to the Hub in the background: training continues, and a failed push never ends it."""

import math
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from huggingface_hub.utils import disable_progress_bars

from fagan_hf.hub import client
from fagan_hf.hub.publishing import publish
from fagan_hf.hub.snapshot import split_revision
from fagan_hf.hub.staging import remove_snapshots, take_snapshot
from fagan_hf.utils.redaction import redact

PATIENCE_SECONDS = 15 * 60.0  # how long a push retries while the Hub is unreachable, unless a newer push replaces it
STOPPED_PATIENCE_SECONDS = 20.0  # after a stop request: schedulers usually kill after about half a minute


class Publisher:
    """Pushes snapshots of a run folder, one at a time; of several pending snapshots only the newest is pushed.

    Args:
        folder: The run folder.
        repo_id: Target repository, ``user/name`` or ``user/name@branch``.
        private: Whether to make a new repository private.
        with_training_state: Whether to push the newest checkpoint as well.
        tell: Shows a message to the user.
    """

    def __init__(
        self, folder: Path, repo_id: str, *, private: bool, with_training_state: bool, tell: Callable[[str], None]
    ):
        self.folder = folder
        self.repo_id, self.revision = split_revision(repo_id)
        self.private = private
        self.with_training_state = with_training_state
        self.tell = tell
        self.url: str | None = None  # of the newest successful push
        self._waiting: tuple[Path, str] | None = None
        self._current: Path | None = None  # the snapshot that is being pushed
        self._is_over = False
        self._changed = threading.Condition()
        self._hurry = threading.Event()  # set: stop waiting for a Hub that can't be reached
        self._thread: threading.Thread | None = None
        remove_snapshots(folder)

    def check(self) -> None:
        """Create the repository now, so that a wrong name or token is noticed before hours of training.

        Raises:
            PermissionError: There is no token, or it lacks write access.
            ValueError: The name is invalid, or the repository is public but a private one was requested.
        """
        try:
            self.repo_id = client.make_repository(self.repo_id, private=self.private or None)
        except client.TemporaryHubError as error:
            self._say(f"{error}. The run starts anyway, and pushes once the Hub is reachable.")

    def push(self, images_seen: int) -> None:
        """Take a snapshot of the folder and push it after the previous one; does not block."""
        snapshot = self._take_snapshot()
        if snapshot is None:
            self.url = None
            return
        with self._changed:
            if self._waiting is not None:
                shutil.rmtree(self._waiting[0], ignore_errors=True)
            self._waiting = snapshot, f"{images_seen:,} images"
            self._hurry.set()
            self._changed.notify_all()
            if self._thread is None or not self._thread.is_alive():
                disable_progress_bars()  # they would garble the run's own
                # A daemon thread: a run that ends with an error must not hang on the Hub.
                self._thread = threading.Thread(target=self._work, name="publisher", daemon=True)
                self._thread.start()

    def finish(self, patience_seconds: float | None = None) -> None:
        """Wait until everything is pushed, and report the result.

        Args:
            patience_seconds: How long to wait at most; by default until the push succeeds or fails.
        """
        by_hand = f"fagan-hf push {self.folder} {self.repo_id}{f'@{self.revision}' if self.revision else ''}"
        try:
            arrived = self._wait(math.inf if patience_seconds is None else patience_seconds)
        except KeyboardInterrupt:
            arrived = False
        self._remove_unfinished()
        if not arrived:
            self._say(f"Stopped waiting for the push. The run is complete in {self.folder}; push it with: {by_hand}")
        elif self.url is None:
            self._say(f"The last push failed. The run is complete in {self.folder}; push it with: {by_hand}")
        else:
            self._say(f"Pushed: {self.url}")

    def _remove_unfinished(self) -> None:
        with self._changed:
            self._is_over = True
            unfinished = [self._current, self._waiting and self._waiting[0]]
            self._waiting = None
        for snapshot in filter(None, unfinished):
            shutil.rmtree(snapshot, ignore_errors=True)

    def _wait(self, patience_seconds: float) -> bool:
        """Wait until everything is pushed or the worker has ended; return whether nothing is left to push."""
        deadline = time.monotonic() + patience_seconds
        with self._changed:
            while not self._is_idle() and self._thread is not None and self._thread.is_alive():
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(min(left, 1.0))
            return self._is_idle()

    def _is_idle(self) -> bool:
        return self._waiting is None and self._current is None

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None)
                assert self._waiting is not None
                snapshot, message = self._waiting
                self._waiting, self._current = None, snapshot
                self._hurry.clear()
            self.url = None
            try:
                self.url = self._publish(snapshot, message)
            finally:  # however this thread ends, nothing may keep waiting for it
                shutil.rmtree(snapshot, ignore_errors=True)
                with self._changed:
                    self._current = None
                    self._changed.notify_all()

    def _publish(self, snapshot: Path, message: str) -> str | None:
        try:
            return publish(
                snapshot,
                self.repo_id,
                message=message,
                revision=self.revision,
                private=self.private
                or None,  # not False, which would make it public where the account's default is private
                with_training_state=self.with_training_state,
                patience_seconds=PATIENCE_SECONDS,
                hurry=self._hurry,
            )
        except Exception as error:  # no error here may end a run; the next checkpoint tries again
            if not self._is_over:  # otherwise its files have been removed
                self._say(redact(f"The push after {message} failed: {error}"))
            return None

    def _take_snapshot(self) -> Path | None:
        try:
            return take_snapshot(self.folder, with_training_state=self.with_training_state)
        except OSError as error:
            self._say(f"Nothing is pushed this time because the snapshot failed: {error}")
            return None

    def _say(self, text: str) -> None:
        with suppress(Exception):  # the output may be closed by now; push anyway
            self.tell(text)
