"""Experiment tracking: what ``metrics.jsonl`` and ``samples/`` hold, sent to a dashboard as well, through Accelerate.

A tracker looks on. Whatever fails in one (network, login, a full disk, its own bug) is told and never ends a run; what
a run needs is in its own files.

TensorBoard: in ``<run>/trackers/tensorboard``; ``tensorboard --logdir runs`` shows all runs.
Trackio: in its own folder, ``TRACKIO_DIR``, by default in Hugging Face's cache; ``trackio show --project fagan_hf``.
``TRACKIO_SPACE_ID`` sends it to a Space.
W&B: on its website where ``wandb login`` was done, else as with ``WANDB_MODE=offline``, to be sent by ``wandb sync``.
Its files are in ``<run>/trackers/wandb`` or ``WANDB_DIR``; ``WANDB_PROJECT`` and ``WANDB_NAME`` name the run otherwise.
"""

import io
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, redirect_stdout, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import TensorBoardTracker, WandBTracker
from accelerate.utils import ProjectConfiguration
from PIL import Image

from fagan_hf.hub.repository import read_json, write_json
from fagan_hf.training.recipe import TrackerName
from fagan_hf.utils.redaction import redact

FOLDER = "trackers"  # of a run folder; nothing in it is published
PROJECT = "fagan_hf"
PATIENCE = 3  # failures in a row, after which a tracker is left alone

# How wandb is set up where the user's environment says nothing else.
WANDB_DEFAULTS = {
    "WANDB_SILENT": "true",  # our own line says where to look
    "WANDB_CONSOLE": "off",  # else it takes hold of the output, progress bar and all, and uploads it
    "WANDB_DISABLE_CODE": "true",
    "WANDB_DISABLE_GIT": "true",  # the address of a remote may hold a token
    "WANDB_X_DISABLE_META": "true",  # and so may the command line
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_INIT_TIMEOUT": "20",  # seconds that an unreachable server delays a run by
    "WANDB_FINISH_TIMEOUT": "20",  # the same at its end; who asks a run to end kills after half a minute or so
    "WANDB_FINISH_TIMEOUT_RAISES": "true",  # so that we can tell
}

# What a number of a player is, is the end of its name: ``generator_loss`` stands beside ``discriminator_loss``.
_KINDS = ("loss", "logit", "accuracy", "variance", "gradient_norm", "skipped", "penalty")
_GROUPS = {"r1": "penalty", "r2": "penalty", "seconds": "speed", "images_per_second": "speed"}


def check_tracker(name: TrackerName) -> None:
    """Find out early whether a tracker is installed.

    Raises:
        ImportError: It is not; names the extra.
    """
    # Accelerate would take tensorboardX too, which has no hyperparameters; and one that is absent it leaves out.
    if name != "none" and find_spec(name) is None:
        raise ImportError(f'--report_to {name} needs {name}, which is not installed: pip install "fagan-hf[{name}]"')


def accelerator_options(name: TrackerName, run_dir: Path) -> dict[str, Any]:
    """Give what the ``Accelerator`` must be made with for a `Tracker` to work."""
    if name == "none":
        return {}
    return {"log_with": name, "project_config": ProjectConfiguration(logging_dir=str(run_dir / FOLDER))}


class Tracker:
    """Sends a run's numbers and grids to a tracker; only the main process does, and without a tracker nobody.

    A folder is a run: started again it goes on as the same run of the tracker. What a killed session had logged after
    its last checkpoint is replaced in TensorBoard, but for texts. Trackio and W&B can't take anything back: there those
    points stay, and the resumed session logs from where they end.

    Args:
        accelerator: Made with `accelerator_options`.
        name: The tracker.
        run_dir: The run's folder.
        config: The recipe, shown beside the numbers.
        tell: Shows a message to the user.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        name: TrackerName,
        run_dir: Path,
        config: Mapping[str, Any],
        tell: Callable[[str], None],
    ):
        self.accelerator = accelerator
        self.name: TrackerName = name
        self.run_dir = run_dir
        self.folder = run_dir / FOLDER
        self.config = {key: plain(value) for key, value in config.items()}
        self.tell = tell
        self._is_on = name != "none" and accelerator.is_main_process
        self._is_open = False
        self._images_seen = 0  # at the start of this session
        self._known: dict[str, Any] = {}  # the run's id in the tracker, and the last point that it has
        self._had = -1  # that point at the start of this session
        self._failures = 0  # in a row
        self._has_told = False

    def start(self, images_seen: int) -> None:
        """Begin, or go on.

        Args:
            images_seen: Where the run stands; later points of an earlier session are not doubled.
        """
        self._images_seen = images_seen
        self._attempt(lambda: None)

    def log(self, numbers: Mapping[str, Any], images_seen: int) -> None:
        """Send a line of ``metrics.jsonl``; texts under ``events`` become one text.

        Args:
            numbers: What was measured, by name.
            images_seen: When.
        """
        self._send(images_seen, lambda: self.accelerator.log(values_of(numbers), step=images_seen))

    def show(self, grid: Image.Image, images_seen: int) -> None:
        """Send a grid of samples.

        Args:
            grid: The samples side by side.
            images_seen: When.
        """
        self._send(images_seen, lambda: self._show(grid, images_seen))

    def finish(self) -> None:
        """Let the tracker write what it still holds; it waits for an unreachable server for a while only."""
        if self._is_open and self._is_on:
            self._attempt(self._close)
        elif self._is_open:
            with suppress(Exception):  # it was given up, which has been told
                self._close()
        # `Accelerator.end_training` would finish it a second time, and let its errors through.
        self.accelerator.trackers.clear()
        self._is_on = self._is_open = False

    def _send(self, images_seen: int, action: Callable[[], None]) -> None:
        def send() -> None:
            if images_seen <= self._had:
                return
            action()
            self._remember(images_seen)

        self._attempt(send)

    def _attempt(self, action: Callable[[], None]) -> None:
        """Do something with the tracker, which is opened first if need be; a failure is told and counted."""
        if not self._is_on:
            return
        try:
            if not self._is_open:
                self._open()
            action()
        except Exception as error:  # whatever it is, it must not end a run
            self._failures += 1
            if not self._has_told:
                self._has_told = True
                self._say(f"{self.name} failed, the run goes on: {str(error).strip() or type(error).__name__}")
            if self._failures >= PATIENCE:
                self._is_on = False
                self._say(f"{self.name} failed {PATIENCE} times in a row: nothing more is sent to it.")
        else:
            self._failures = 0

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        project, options = getattr(self, f"_options_of_{self.name}")()
        try:
            with self._silence():
                self.accelerator.init_trackers(project, init_kwargs={self.name: options})
                if self.name == "tensorboard":
                    self._add_hyperparameters()
        except BaseException:
            self.accelerator.trackers.clear()  # Accelerate has it in the list before it works
            if self.name == "wandb":
                import wandb

                wandb.teardown()  # else the run stays "in use", and no second try can have it
            raise
        self._is_open = True
        self._say(f"Tracked by {self.name}: {self._where()}")

    def _close(self) -> None:
        with self._silence():
            if self.name == "trackio":
                import trackio

                trackio.finish()  # Accelerate's leaves it to be finished, and told of, once more when Python exits
            else:
                self.accelerator.get_tracker(self.name).finish()

    def _silence(self) -> AbstractContextManager[Any]:
        """Keep Trackio from printing half a screen; W&B may have to take hold of the real output."""
        return redirect_stdout(io.StringIO()) if self.name == "trackio" else nullcontext()

    def _options_of_tensorboard(self) -> tuple[str, dict[str, Any]]:
        return "tensorboard", {"purge_step": self._images_seen + 1}

    def _options_of_trackio(self) -> tuple[str, dict[str, Any]]:
        self._recall()
        # It knows runs by their names, and those of other folders may be called the same.
        name = f"{self.run_dir.name}-{self._known['id']}"
        return PROJECT, {"name": name, "resume": "allow", "config": self.config, "embed": False}

    def _options_of_wandb(self) -> tuple[str, dict[str, Any]]:
        for variable, value in WANDB_DEFAULTS.items():
            os.environ.setdefault(variable, value)
        import wandb

        self._recall()
        mode = wandb.setup().settings.mode
        # A login that is missing would be asked for, a server that did not answer keeps its silence.
        if mode in ("online", "shared", "run") and (self._failures or not wandb.login(prompt=False, verify=False)):
            mode = "offline"
        folder = os.environ.get("WANDB_DIR") or str(self.folder)
        names = {"id": self._known["id"], "name": os.environ.get("WANDB_NAME") or self.run_dir.name}
        options = {**names, "dir": folder, "mode": mode, "resume": "allow", "config": self.config}
        return os.environ.get("WANDB_PROJECT") or PROJECT, options

    def _add_hyperparameters(self) -> None:
        """Write the config into the run itself; `SummaryWriter.add_hparams` makes a run of its own for it each time."""
        from torch.utils.tensorboard.summary import hparams

        writer = cast(TensorBoardTracker, self.accelerator.get_tracker("tensorboard")).writer
        for summary in hparams(self.config, {}):
            writer.file_writer.add_summary(summary)  # pyright: ignore[reportOptionalMemberAccess]

    def _show(self, grid: Image.Image, images_seen: int) -> None:
        if self.name == "trackio":
            import trackio

            self.accelerator.log({"samples": trackio.Image(grid)}, step=images_seen)
            return
        tracker = cast(TensorBoardTracker | WandBTracker, self.accelerator.get_tracker(self.name))
        if isinstance(tracker, TensorBoardTracker):
            pixels = np.asarray(grid.convert("RGB"))[np.newaxis]
            tracker.log_images({"samples": pixels}, step=images_seen, dataformats="NHWC")
            tracker.writer.flush()
        else:
            tracker.log_images({"samples": [grid]}, step=images_seen)

    def _recall(self) -> None:
        """Read which run of the tracker this folder is, and up to where the tracker has it."""
        self._known = read_json(self._memory) or {"id": secrets.token_hex(4), "images_seen": -1}
        self._had = self._known["images_seen"]
        write_json(self._memory, self._known)

    def _remember(self, images_seen: int) -> None:
        if self._known and images_seen > self._known["images_seen"]:
            self._known["images_seen"] = images_seen
            write_json(self._memory, self._known)

    @property
    def _memory(self) -> Path:
        return self.folder / f"{self.name}.json"

    def _where(self) -> str:
        if self.name == "tensorboard":
            return f"tensorboard --logdir {self.run_dir}"
        if self.name == "trackio":
            return os.environ.get("TRACKIO_SPACE_ID") or f"trackio show --project {PROJECT}"
        run: Any = self.accelerator.get_tracker("wandb").tracker  # pyright: ignore[reportAttributeAccessIssue]
        if run.disabled:
            return "switched off by its settings"
        return run.url or f"offline; wandb sync {Path(run.dir).parent}"

    def _say(self, text: str) -> None:
        with suppress(Exception):  # the output may be closed by now
            self.tell(redact(text))


def group(name: str) -> str:
    """Name a number for a dashboard, which draws those with the same first part together.

    For example ``generator_loss`` becomes ``loss/generator``, and a gate ``gates/generator.layers.0.alpha``.
    """
    if "." in name:
        return f"gates/{name}"
    for kind in _KINDS:
        if name.endswith(f"_{kind}"):
            return f"{kind}/{name.removesuffix(f'_{kind}')}"
    return f"{_GROUPS.get(name, 'training')}/{name}"


def values_of(numbers: Mapping[str, Any]) -> dict[str, float | str]:
    """Give a line of ``metrics.jsonl`` as trackers take it: numbers in groups, events as one text, nothing else."""
    values: dict[str, float | str] = {
        group(name): value for name, value in numbers.items() if name != "images" and isinstance(value, int | float)
    }
    if events := numbers.get("events"):
        values["events"] = redact("\n".join(map(str, events)))
    return values


def plain(value: Any) -> bool | int | float | str:
    """Turn a field of a recipe into what every tracker can show, without tokens; lists and nothing become words."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return redact(", ".join(map(str, value)))
    return "none" if value is None else redact(str(value))
