"""Push a run to the Hub in the background: training goes on, and no push that fails ends it."""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from huggingface_hub.utils import disable_progress_bars

from fagan_hf import hub
from fagan_hf.publishing import publish
from fagan_hf.redaction import redact
from fagan_hf.repository import CARD, HISTORY, newest_checkpoint, published_files

PATIENCE_SECONDS = 15 * 60.0  # of a push whose Hub can't be reached; a newer one takes its place before
STOPPED_PATIENCE_SECONDS = 20.0  # of a run that was asked to end: who asks kills after half a minute or so


class Publisher:
    """Pushes snapshots of a run folder, one at a time; of those that wait the newest goes.

    Args:
        folder: The run's.
        repo_id: Where to.
        private: Make a new repository private?
        with_training_state: Push the newest checkpoint as well?
        tell: Shows a message to the user.
    """

    def __init__(
        self, folder: Path, repo_id: str, *, private: bool, with_training_state: bool, tell: Callable[[str], None]
    ):
        self.folder = folder
        self.repo_id = repo_id
        self.private = private
        self.with_training_state = with_training_state
        self.tell = tell
        self.url: str | None = None  # of the newest push that arrived
        self._waiting: tuple[Path, str] | None = None
        self._is_busy = False
        self._count = 0
        self._changed = threading.Condition()
        self._hurry = threading.Event()  # set: stop waiting for a Hub that can't be reached
        self._thread: threading.Thread | None = None

    def check(self) -> None:
        """Make the repository now, so that a wrong name or token is found before hours of training.

        Raises:
            PermissionError: There is no token, or it has no right to.
            ValueError: The name is none.
        """
        try:
            self.repo_id = hub.make_repository(self.repo_id, private=self.private)
        except hub.TemporaryHubError as error:
            self.tell(f"{error}. The run starts all the same, and pushes when the Hub is back.")

    def push(self, images_seen: int) -> None:
        """Take a snapshot of the folder and push it when the one before is through; does not wait."""
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
            if self._thread is None:
                disable_progress_bars()  # they would be drawn over the run's own
                # A daemon: a run that ends with an error must not hang on its Hub.
                self._thread = threading.Thread(target=self._work, name="publisher", daemon=True)
                self._thread.start()

    def finish(self, patience_seconds: float | None = None) -> None:
        """Wait until everything is pushed, and say how it went.

        Args:
            patience_seconds: How long to wait at most; by default until it is through or has failed.
        """
        by_hand = f"fagan-hf push {self.folder} {self.repo_id}"
        try:
            with self._changed:
                arrived = self._changed.wait_for(self._is_idle, patience_seconds)
        except KeyboardInterrupt:
            arrived = False
        if not arrived:
            self.tell(f"Not waiting for the push any longer. The run is whole in {self.folder}; push it by: {by_hand}")
        elif self.url is None:
            self.tell(f"The last push did not arrive. The run is whole in {self.folder}; push it by: {by_hand}")
        else:
            self.tell(f"Pushed: {self.url}")

    def _is_idle(self) -> bool:
        return self._waiting is None and not self._is_busy

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None)
                assert self._waiting is not None
                snapshot, message = self._waiting
                self._waiting, self._is_busy = None, True
                self._hurry.clear()
            self.url = self._publish(snapshot, message)
            shutil.rmtree(snapshot, ignore_errors=True)
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()

    def _publish(self, snapshot: Path, message: str) -> str | None:
        try:
            return publish(
                snapshot,
                self.repo_id,
                message=message,
                private=self.private,
                with_training_state=self.with_training_state,
                patience_seconds=PATIENCE_SECONDS,
                hurry=self._hurry,
            )
        except Exception as error:  # whatever it is, it must not end a run; the next checkpoint tries again
            self.tell(redact(f"The push after {message} failed: {error}"))
            return None

    def _take_snapshot(self) -> Path | None:
        """Link the files aside: those of the run are replaced by whole new ones while a push goes on."""
        self._count += 1
        snapshot = self.folder / f".push-{os.getpid()}-{self._count}"
        files = published_files(self.folder)
        if (self.folder / CARD).is_file():
            files[CARD] = self.folder / CARD
        checkpoint = newest_checkpoint(self.folder) if self.with_training_state else None
        if checkpoint is not None:
            files |= {path.relative_to(self.folder).as_posix(): path for path in checkpoint.iterdir()}
        try:
            for abandoned in self.folder.glob(".push-*"):  # of a process that was killed
                if not abandoned.name.startswith(f".push-{os.getpid()}-"):
                    shutil.rmtree(abandoned, ignore_errors=True)
            for name, path in files.items():
                target = snapshot / name
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(path, target, is_appended_to=name == HISTORY)
        except OSError as error:
            shutil.rmtree(snapshot, ignore_errors=True)
            self.tell(f"Nothing is pushed this time, for it could not be laid aside: {error}")
            return None
        return snapshot


def _link(path: Path, target: Path, *, is_appended_to: bool) -> None:
    if not is_appended_to:
        try:
            os.link(path, target)
            return
        except OSError:  # a file system without links
            pass
    shutil.copyfile(path, target)
