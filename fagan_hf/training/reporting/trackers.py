"""Experiment tracking: the contents of ``metrics.jsonl`` and ``samples/`` sent to a dashboard, through Accelerate.

A tracker only observes. If one fails (network, login, a full disk, a bug in it), the failure is logged and the run
continues; everything that a run needs is in its own files.

TensorBoard: in ``<run>/trackers/tensorboard``; ``tensorboard --logdir runs`` shows all runs.
Trackio: in its own folder, ``TRACKIO_DIR``, by default in the Hugging Face cache; ``trackio show --project fagan_hf``.
``TRACKIO_SPACE_ID`` sends it to a Space.
W&B: on its website after ``wandb login``, otherwise as with ``WANDB_MODE=offline``, for a later ``wandb sync``. Its
files are in ``<run>/trackers/wandb`` or ``WANDB_DIR``; ``WANDB_PROJECT`` and ``WANDB_NAME`` override project and name.
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

FOLDER = "trackers"  # in the run folder; never published
PROJECT = "fagan_hf"
PATIENCE = 3  # consecutive failures after which a tracker is disabled

# Defaults for wandb; the user's environment takes precedence.
WANDB_DEFAULTS = {
    "WANDB_SILENT": "true",  # we log the location ourselves
    "WANDB_CONSOLE": "off",  # otherwise it captures and uploads the output, including the progress bar
    "WANDB_DISABLE_CODE": "true",
    "WANDB_DISABLE_GIT": "true",  # the URL of a remote may contain a token
    "WANDB_X_DISABLE_META": "true",  # and so may the command line
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_INIT_TIMEOUT": "20",  # maximum delay by an unreachable server [seconds]
    "WANDB_FINISH_TIMEOUT": "20",  # the same at the end; schedulers usually kill after about half a minute
    "WANDB_FINISH_TIMEOUT_RAISES": "true",  # so that we notice
}

# The suffix of a player's metric names its kind: ``generator_loss`` and ``discriminator_loss`` share a chart.
_KINDS = ("loss", "logit", "accuracy", "variance", "gradient_norm", "skipped", "penalty")
_GROUPS = {"r1": "penalty", "r2": "penalty", "seconds": "speed", "images_per_second": "speed"}


def check_tracker(name: TrackerName) -> None:
    """Check early that a tracker is installed.

    Raises:
        ImportError: It is not installed; names the extra.
    """
    # Accelerate would also accept tensorboardX, which has no hyperparameters, and silently skip an absent tracker.
    if name != "none" and find_spec(name) is None:
        raise ImportError(f'--report_to {name} needs {name}, which is not installed: pip install "fagan-hf[{name}]"')


def accelerator_options(name: TrackerName, run_dir: Path) -> dict[str, Any]:
    """Return the arguments that the ``Accelerator`` needs for a `Tracker`."""
    if name == "none":
        return {}
    return {"log_with": name, "project_config": ProjectConfiguration(logging_dir=str(run_dir / FOLDER))}


class Tracker:
    """Sends a run's metrics and sample grids to a tracker, from the main process only.

    A run folder maps to one run of the tracker, also after a resume. What a killed session had logged after its last
    checkpoint is replaced in TensorBoard, except for text. Trackio and W&B can't delete points: there they stay, and
    the resumed session logs from where they end.

    Args:
        accelerator: Created with `accelerator_options`.
        name: The tracker.
        run_dir: The run folder.
        config: The recipe, shown beside the metrics.
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
        self._known: dict[str, Any] = {}  # the run's id in the tracker, and its last logged point
        self._had = -1  # that point at the start of this session
        self._failures = 0  # consecutive
        self._has_told = False

    def start(self, images_seen: int) -> None:
        """Start tracking, or resume.

        Args:
            images_seen: Current progress of the run; later points of an earlier session are not logged twice.
        """
        self._images_seen = images_seen
        self._attempt(lambda: None)

    def log(self, numbers: Mapping[str, Any], images_seen: int) -> None:
        """Send a line of ``metrics.jsonl``; the entries of ``events`` are joined into one text.

        Args:
            numbers: Metrics by name.
            images_seen: Images seen at this line.
        """
        self._send(images_seen, lambda: self.accelerator.log(values_of(numbers), step=images_seen))

    def show(self, grid: Image.Image, images_seen: int) -> None:
        """Send a grid of samples.

        Args:
            grid: The samples as one image.
            images_seen: Images seen at this grid.
        """
        self._send(images_seen, lambda: self._show(grid, images_seen))

    def finish(self) -> None:
        """Flush and close the tracker, with a time limit for an unreachable server."""
        if self._is_open and self._is_on:
            self._attempt(self._close)
        elif self._is_open:
            with suppress(Exception):  # it was disabled, which has been logged
                self._close()
        # `Accelerator.end_training` would finish it a second time and propagate its errors.
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
        """Run an action on the tracker, opening it first if necessary; failures are logged and counted."""
        if not self._is_on:
            return
        try:
            if not self._is_open:
                self._open()
            action()
        except Exception as error:  # no error here may end a run
            self._failures += 1
            if not self._has_told:
                self._has_told = True
                self._say(f"{self.name} failed, training continues: {str(error).strip() or type(error).__name__}")
            if self._failures >= PATIENCE:
                self._is_on = False
                self._say(f"{self.name} failed {PATIENCE} times in a row: tracking is disabled.")
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
            self.accelerator.trackers.clear()  # Accelerate adds a tracker before it has started
            if self.name == "wandb":
                import wandb

                wandb.teardown()  # otherwise the run stays "in use" and a retry can't open it
            raise
        self._is_open = True
        self._say(f"Tracking with {self.name}: {self._where()}")

    def _close(self) -> None:
        with self._silence():
            if self.name == "trackio":
                import trackio

                trackio.finish()  # Accelerate's finish would leave it to finish, and print, once more when Python exits
            else:
                self.accelerator.get_tracker(self.name).finish()

    def _silence(self) -> AbstractContextManager[Any]:
        """Silence Trackio, which prints half a screen; W&B may need the real output."""
        return redirect_stdout(io.StringIO()) if self.name == "trackio" else nullcontext()

    def _options_of_tensorboard(self) -> tuple[str, dict[str, Any]]:
        return "tensorboard", {"purge_step": self._images_seen + 1}

    def _options_of_trackio(self) -> tuple[str, dict[str, Any]]:
        self._recall()
        # Trackio identifies runs by name, and runs in other folders may have the same name.
        name = f"{self.run_dir.name}-{self._known['id']}"
        return PROJECT, {"name": name, "resume": "allow", "config": self.config, "embed": False}

    def _options_of_wandb(self) -> tuple[str, dict[str, Any]]:
        for variable, value in WANDB_DEFAULTS.items():
            os.environ.setdefault(variable, value)
        import wandb

        self._recall()
        mode = wandb.setup().settings.mode
        # Without a login wandb would prompt for one, and a server that did not answer once won't answer now.
        if mode in ("online", "shared", "run") and (self._failures or not wandb.login(prompt=False, verify=False)):
            mode = "offline"
        folder = os.environ.get("WANDB_DIR") or str(self.folder)
        names = {"id": self._known["id"], "name": os.environ.get("WANDB_NAME") or self.run_dir.name}
        options = {**names, "dir": folder, "mode": mode, "resume": "allow", "config": self.config}
        return os.environ.get("WANDB_PROJECT") or PROJECT, options

    def _add_hyperparameters(self) -> None:
        """Write the config into the run itself; `SummaryWriter.add_hparams` would create a separate run each time."""
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
        """Read which run of the tracker belongs to this folder, and its last logged point."""
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
            return "disabled by its settings"
        return run.url or f"offline; wandb sync {Path(run.dir).parent}"

    def _say(self, text: str) -> None:
        with suppress(Exception):  # the output may be closed by now
            self.tell(redact(text))


def group(name: str) -> str:
    """Name a metric for a dashboard, which groups charts by the part before the slash.

    For example ``generator_loss`` becomes ``loss/generator``, and a gate ``gates/generator.layers.0.alpha``.
    """
    if "." in name:
        return f"gates/{name}"
    for kind in _KINDS:
        if name.endswith(f"_{kind}"):
            return f"{kind}/{name.removesuffix(f'_{kind}')}"
    return f"{_GROUPS.get(name, 'training')}/{name}"


def values_of(numbers: Mapping[str, Any]) -> dict[str, float | str]:
    """Convert a line of ``metrics.jsonl`` for trackers: grouped metrics, events as one text, nothing else."""
    values: dict[str, float | str] = {
        group(name): value for name, value in numbers.items() if name != "images" and isinstance(value, int | float)
    }
    if events := numbers.get("events"):
        values["events"] = redact("\n".join(map(str, events)))
    return values


def plain(value: Any) -> bool | int | float | str:
    """Convert a recipe field to a value that every tracker can show, without tokens; lists and None become text."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return redact(", ".join(map(str, value)))
    return "none" if value is None else redact(str(value))
