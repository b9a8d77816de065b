"""Train from Python: in a script, a thread, a notebook, or processes started by `accelerate.notebook_launcher`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fagan_hf.hub.repository import HISTORY
from fagan_hf.models import Discriminator, Generator
from fagan_hf.training.flags import build_recipe
from fagan_hf.training.run import loop
from fagan_hf.training.run.facts import command
from fagan_hf.training.run.session import setup


@dataclass(frozen=True)
class TrainedRun:
    """The results of a run, loaded from its folder on first use.

    Attributes:
        folder: The run folder, which every ``from_pretrained`` loads.
    """

    folder: Path

    @cached_property
    def generator(self) -> Generator:
        """The averaged generator, in eval mode on the CPU."""
        return Generator.from_pretrained(self.folder)

    @cached_property
    def discriminator(self) -> Discriminator:
        """The discriminator, in eval mode on the CPU."""
        return Discriminator.from_pretrained(self.folder)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``, one for each log interval: ``images``, ``seconds``, losses and more."""
        lines = (self.folder / HISTORY).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]


def train(recipe: str | Path | None = None, **fields: Any) -> TrainedRun:
    """Train a generator and a discriminator; make the same call again to resume an interrupted run.

    In a notebook the newest grid and the losses are shown below the cell. To train in several processes, for example in
    a notebook with two GPUs, use ``accelerate.notebook_launcher(fagan_hf.train, ("avatars-32",), num_processes=2)``, or
    launch a function that calls this one.

    Args:
        recipe: A bundled recipe, such as ``"avatars-32"``, or the path of a YAML file.
        **fields: Fields to override, such as ``dataset="~/pictures"``, ``max_images=50_000``; ``fagan-hf train --help``
            explains all of them.

    Returns:
        The finished run: its ``folder``, ``generator``, ``discriminator`` and ``metrics``.

    Raises:
        FileNotFoundError: There is no such recipe, dataset or model.
        TypeError: A field is unknown; suggests the closest name.
        ValueError: A value is not allowed, the images can't be used, or the folder belongs to another recipe.
        ImportError: A tracker or a dataset needs a package.
        OSError: The folder can't be written, or the disk is full and stays full.
        DivergedError: Losses or gradients are not finite, and rolling back to a checkpoint did not help.
        OtherProcessError: Another process has failed.
        KeyboardInterrupt: Stop requested by Ctrl-C, a notebook's stop button or SIGTERM. A checkpoint is saved, unless
            it was requested twice; make the same call again to resume.

    Example:
        >>> run = fagan_hf.train("avatars-32", max_minutes=2)
        >>> images = FAGANPipeline(run.generator)(seeds=[1, 2, 3]).images  # doctest: +SKIP
    """
    session = setup(build_recipe(recipe, **fields), _as_command(recipe, fields))
    loop.train(session)
    if session.stop_request.is_made:
        raise KeyboardInterrupt(f"stopped after {session.images_seen:,} images; make the same call again to resume")
    return TrainedRun(session.recipe.run_dir)


def _as_command(recipe: str | Path | None, fields: Mapping[str, Any]) -> str:
    """Return the shell command of the same training, without paths of this machine."""
    start = [] if recipe is None else ["--recipe", str(recipe)]
    flags = [f"--{name}={_as_text(value)}" for name, value in fields.items()]
    return command(["fagan-hf", "train", *start, *flags])


def _as_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(str, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
