"""Checkpoints: a folder each, complete or absent, in safetensors and JSON.

``checkpoints/images-00064000/`` holds a safetensors file for every network and optimizer and one for the run's own
tensors, ``state.json`` for plain numbers, and ``manifest.json`` with the SHA-256 of each. It is written aside, synced
and renamed. Nothing in it is unpickled.
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

from fagan_hf.hub.repository import checkpoints_in
from fagan_hf.utils.files import replacing_folder, save_tensors, sha256

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
STATE = "state.json"
NUMBERS = "numbers"

Files = dict[str, dict[str, Tensor]]
"""Tensors by name, by the file they are in (without its ending)."""


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: Where they are.
        networks: What is saved and restored, by file name.
        optimizers: The same for optimizers.
        keep: The newest so many stay.
    """

    def __init__(self, folder: Path, networks: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer], keep: int):
        self.folder = folder
        self.networks = dict(networks)
        self.optimizers = dict(optimizers)
        self.keep = keep
        self._whole: set[Path] = set()  # those that this process has written or verified

    def save(self, images_seen: int, state: Mapping[str, Any], numbers: Mapping[str, Tensor] | None = None) -> Path:
        """Write everything as it is now, then remove the oldest beyond `keep`.

        Args:
            images_seen: Names the checkpoint.
            state: Plain numbers and texts to be found again.
            numbers: Tensors of the run itself.

        Returns:
            The checkpoint's folder.

        Raises:
            OSError: It could not be written, a full disk for example; earlier checkpoints are untouched.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        final = self.folder / f"images-{images_seen:08d}"
        if final.exists() and self._problem_of(final) is None:
            return final  # the same moment of the run, saved before: it is never taken away to be written again
        for abandoned in self.folder.glob(".images-*"):  # by a process that was killed while writing
            shutil.rmtree(abandoned, ignore_errors=True)
        with replacing_folder(final) as aside:  # a broken one: a whole one was given back above
            self._write(aside, state, numbers or {})
        self._whole.add(final)
        self._remove_old(final)
        return final

    def _remove_old(self, newest: Path) -> None:
        """Keep the newest that are whole, the one just written among them; what is broken counts for none."""
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
        """Give what is saved, by file."""
        weights = {
            name: {key: tensor.detach().contiguous() for key, tensor in network.state_dict().items()}
            for name, network in self.networks.items()
        }
        return weights | {name: _optimizer_tensors(optimizer) for name, optimizer in self.optimizers.items()}

    def all(self) -> list[Path]:
        """List the checkpoint folders, oldest first, whole or not."""
        return checkpoints_in(self.folder)

    def read(self, check: Callable[[dict[str, Any]], Any] | None = None) -> tuple[dict[str, Any], Files] | None:
        """Read the newest whole checkpoint; a broken one is named and passed over.

        Args:
            check: Is given the state before any tensor is read, and raises if the run can't go on from it.

        Returns:
            The state that was saved with it and the tensors, for `restore`; ``None`` if there is no checkpoint.

        Raises:
            ValueError: There are checkpoints, and none is whole: to begin anew is not for this program to decide.
        """
        problem = None
        for path in reversed(self.all()):
            if problem := self._problem_of(path):
                logger.warning("checkpoint %s is broken (%s): using the one before it", path, problem)
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
                f"no checkpoint in {self.folder} is whole (the oldest: {problem}). Bring one back from elsewhere, or "
                "remove that folder to begin anew; the model beside it stays"
            )
        return None

    def _problem_of(self, folder: Path) -> str | None:
        """Say what is wrong with a checkpoint of this run, whose files must all be there."""
        if problem := problem_of(folder):
            return problem
        hashes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        missing = [_file(name) for name in (*self.networks, *self.optimizers) if _file(name) not in hashes]
        return f"{MANIFEST} does not name {missing[0]}" if missing else None

    def restore(self, files: Files) -> dict[str, Tensor]:
        """Put networks and optimizers back as they were read.

        Returns:
            The tensors of the run itself; none of an older checkpoint.
        """
        for name, network in self.networks.items():
            network.load_state_dict(files[name])
        for name, optimizer in self.optimizers.items():
            _restore_optimizer(optimizer, files[name])
        return files.get(NUMBERS, {})


def _file(name: str) -> str:
    return f"{name}.safetensors"


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Flatten an optimizer's state: ``"3.exp_avg"`` is the gradient's mean of its parameter number 3."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor.contiguous() for index, slots in state.items() for name, tensor in slots.items()}


def _restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".")
        # A moment must lie in memory as its parameter does (channels_last, say): fused Adam walks both side by side,
        # and would pair each weight with another one's moments.
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            tensor = torch.empty_like(parameter, requires_grad=False).copy_(tensor)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def copy_checkpoint(source: Path, target: Path, state: Mapping[str, Any]) -> None:
    """Copy a checkpoint, with another state; complete or not at all.

    Args:
        source: A whole one; its files may be links.
        target: Replaced if it is there.
        state: What stands in the copy's ``state.json``.

    Raises:
        OSError: There is no room.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(target) as aside:
        for name in json.loads((source / MANIFEST).read_text(encoding="utf-8")):
            shutil.copyfile(source / name, aside / name)
        _seal(aside, state)


def _seal(folder: Path, state: Mapping[str, Any]) -> None:
    """Add the state and the manifest to a checkpoint's tensors, which names every file by its hash."""
    (folder / STATE).write_text(json.dumps(state, indent=2), encoding="utf-8")
    hashes = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps(hashes, indent=2), encoding="utf-8")


def problem_of(folder: Path) -> str | None:
    """Say what is wrong with a checkpoint; nothing if every file is as its manifest says."""
    try:
        hashes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if STATE not in hashes:
            return f"{MANIFEST} does not name {STATE}"
        for name, expected in hashes.items():
            if Path(name).name != name:
                return f"{MANIFEST} names {name!r}, which lies elsewhere"
            if sha256(folder / name) != expected:
                return f"{name} is not what was written"
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None
