"""Checkpoints: one folder each, complete or absent, in safetensors and JSON.

``checkpoints/images-00064000/`` holds a safetensors file for every network and optimizer and one for the run's own
tensors, ``state.json`` for plain values, and ``manifest.json`` with the SHA-256 of each. It is written to a temporary
folder, synced and renamed. Nothing in it is unpickled.
"""

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

from fagan_hf.hub.repository import MANIFEST, STATE, checkpoints_in
from fagan_hf.utils.files import replacing_folder, save_tensors, sha256

logger = logging.getLogger(__name__)

NUMBERS = "numbers"

Files = dict[str, dict[str, Tensor]]
"""Tensors by name, by the file that contains them (without its suffix)."""


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: Folder of the checkpoints.
        networks: Networks to save and restore, by file name.
        optimizers: Optimizers to save and restore, by file name.
        keep: Number of checkpoints to keep.
    """

    def __init__(self, folder: Path, networks: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer], keep: int):
        self.folder = folder
        self.networks = dict(networks)
        self.optimizers = dict(optimizers)
        self.keep = keep
        self._whole: set[Path] = set()  # checkpoints that this process has written or verified

    def save(self, images_seen: int, state: Mapping[str, Any], numbers: Mapping[str, Tensor] | None = None) -> Path:
        """Save the current state, then remove the oldest checkpoints beyond `keep`.

        Args:
            images_seen: Images seen, used as the checkpoint's name.
            state: JSON-serializable values to save with it.
            numbers: Tensors of the run itself.

        Returns:
            The checkpoint's folder.

        Raises:
            OSError: It could not be written, for example because the disk is full; earlier checkpoints are untouched.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        final = self.folder / f"images-{images_seen:08d}"
        if final.exists() and self._problem_of(final) is None:
            return final  # already saved at this point of the run: never removed in order to rewrite it
        for abandoned in self.folder.glob(".images-*"):  # left by a process that was killed while writing
            shutil.rmtree(abandoned, ignore_errors=True)
        with replacing_folder(final) as aside:  # replaces a corrupt one: an intact one was returned above
            self._write(aside, state, numbers or {})
        self._whole.add(final)
        self._remove_old(final)
        return final

    def _remove_old(self, newest: Path) -> None:
        """Keep the newest intact checkpoints, including the one just written; corrupt ones don't count."""
        others = [path for path in self.all() if path != newest]
        if len(others) < self.keep:
            return
        whole = [path for path in others if path in self._whole or self._problem_of(path) is None]
        self._whole.update(whole)
        kept = whole[-(self.keep - 1) :] if self.keep > 1 else []
        for path in others:
            if path not in kept:
                shutil.rmtree(path)

    def _write(self, folder: Path, state: Mapping[str, Any], numbers: Mapping[str, Tensor]) -> None:
        for name, tensors in self._tensors().items():
            save_tensors(tensors, folder / f"{name}.safetensors")
        save_tensors({name: tensor.detach().contiguous() for name, tensor in numbers.items()}, folder / _file(NUMBERS))
        _seal(folder, state)

    def _tensors(self) -> Files:
        """Return the tensors to save, by file."""
        weights = {
            name: {key: tensor.detach().contiguous() for key, tensor in network.state_dict().items()}
            for name, network in self.networks.items()
        }
        return weights | {name: _optimizer_tensors(optimizer) for name, optimizer in self.optimizers.items()}

    def all(self) -> list[Path]:
        """List the checkpoint folders, oldest first, intact or not."""
        return checkpoints_in(self.folder)

    def read(self, check: Callable[[dict[str, Any]], Any] | None = None) -> tuple[dict[str, Any], Files] | None:
        """Read the newest intact checkpoint; corrupt ones are logged and skipped.

        Args:
            check: Called with the state before any tensor is read; raises if the run can't resume from it.

        Returns:
            The saved state and the tensors, for `restore`; ``None`` if there is no checkpoint.

        Raises:
            ValueError: There are checkpoints, but all are corrupt: the user must decide whether to start over.
        """
        problem = None
        for path in reversed(self.all()):
            if problem := self._problem_of(path):
                logger.warning("checkpoint %s is corrupt (%s): using the previous one", path, problem)
                continue
            self._whole.add(path)
            state = json.loads((path / STATE).read_text(encoding="utf-8"))
            if check is not None:
                check(state)
            hashes = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            names = [*self.networks, *self.optimizers, *([NUMBERS] if _file(NUMBERS) in hashes else [])]
            return state, {name: load_file(path / _file(name)) for name in names}
        if problem is not None:
            raise ValueError(
                f"all checkpoints in {self.folder} are corrupt (the oldest: {problem}). Restore one from a backup, or "
                "remove that folder to start over; the model next to it is kept"
            )
        return None

    def _problem_of(self, folder: Path) -> str | None:
        """Return what is wrong with a checkpoint of this run, whose files must all be present; else ``None``."""
        if problem := problem_of(folder):
            return problem
        hashes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        missing = [_file(name) for name in (*self.networks, *self.optimizers) if _file(name) not in hashes]
        return f"{MANIFEST} does not list {missing[0]}" if missing else None

    def count_moments(self, files: Files) -> tuple[int, int]:
        """Return for how many parameters a checkpoint has an optimizer's moments, and the number of parameters.

        Parameters that have never been updated, such as those of frozen layers, have none.
        """
        kept = sum(len({key.partition(".")[0] for key in files[name]}) for name in self.optimizers)
        groups = [group for optimizer in self.optimizers.values() for group in optimizer.param_groups]
        return kept, sum(len(group["params"]) for group in groups)

    def restore(self, files: Files) -> dict[str, Tensor]:
        """Restore networks and optimizers from tensors that `read` returned.

        Returns:
            The tensors of the run itself; empty for an older checkpoint.
        """
        for name, network in self.networks.items():
            network.load_state_dict(files[name])
        for name, optimizer in self.optimizers.items():
            _restore_optimizer(optimizer, files[name])
        return files.get(NUMBERS, {})


def _file(name: str) -> str:
    return f"{name}.safetensors"


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Flatten an optimizer's state: ``"3.exp_avg"`` is the first moment of parameter 3."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor.contiguous() for index, slots in state.items() for name, tensor in slots.items()}


def _restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".")
        # A moment must have the memory layout of its parameter (such as channels_last): fused Adam traverses both in
        # memory order, and would otherwise pair each weight with the moments of another.
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            tensor = torch.empty_like(parameter, requires_grad=False).copy_(tensor)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def copy_checkpoint(source: Path, target: Path, state: Mapping[str, Any]) -> None:
    """Copy a checkpoint atomically, with another state.

    Args:
        source: An intact checkpoint; its files may be links.
        target: Replaced if it exists.
        state: Contents of the copy's ``state.json``.

    Raises:
        OSError: The disk is full.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(target) as aside:
        for name in json.loads((source / MANIFEST).read_text(encoding="utf-8")):
            shutil.copyfile(source / name, aside / name)
        _seal(aside, state)


def _seal(folder: Path, state: Mapping[str, Any]) -> None:
    """Add the state to a checkpoint's tensors, and the manifest, which lists the hash of every file."""
    (folder / STATE).write_text(json.dumps(state, indent=2), encoding="utf-8")
    hashes = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps(hashes, indent=2), encoding="utf-8")


def problem_of(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint; ``None`` if every file matches its manifest."""
    try:
        hashes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if STATE not in hashes:
            return f"{MANIFEST} does not list {STATE}"
        for name, expected in hashes.items():
            if Path(name).name != name:
                return f"{MANIFEST} lists {name!r}, which is outside the checkpoint"
            if sha256(folder / name) != expected:
                return f"{name} does not match its hash"
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None
