"""The model that a run starts from: resumed where its training stopped, or fine-tuned on other pictures."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fagan_hf.hub.publish import NOT_PORTABLE
from fagan_hf.hub.repository import (
    ARCHITECTURE_SUFFIXES,
    CONFIG,
    DISCRIMINATOR,
    FACTS,
    GENERATOR,
    HISTORY,
    RECIPE,
    STATE,
    TRAINING_STATE,
    WEIGHTS,
    read_json,
    read_recipe,
)
from fagan_hf.hub.snapshot import resolve
from fagan_hf.models import Discriminator, Generator
from fagan_hf.models.hub_model import HubModel
from fagan_hf.training.run.checkpoint import copy_checkpoint, problem_of
from fagan_hf.utils.files import replacing

_WANTED = [*(f"{name}/{file}" for name in (GENERATOR, DISCRIMINATOR) for file in (CONFIG, WEIGHTS))]
_WANTED += [FACTS, HISTORY, RECIPE, f"{TRAINING_STATE}/*"]


@dataclass(frozen=True)
class Origin:
    """A model folder, or a snapshot of a repository.

    Attributes:
        name: As it was given.
        folder: Where its files are.
        commit: Of the repository; ``None`` for a folder of this machine.
    """

    name: str
    folder: Path
    commit: str | None = None

    @property
    def label(self) -> str:
        """What a card calls it: ``user/name@commit``, or the folder's name."""
        return f"{self.name.partition('@')[0]}@{self.commit}" if self.commit else self.folder.resolve().name

    @property
    def facts(self) -> dict[str, Any]:
        """What it says of its training; empty if it says nothing."""
        return read_json(self.folder / FACTS).get("training", {})

    def lineage(self, *, is_resumed: bool, data: Mapping[str, Any]) -> dict[str, Any]:
        """Say where the weights of a run that starts from it come from; a fine-tuned model stays one.

        Args:
            is_resumed: Is it the same run that goes on?
            data: Description of the images of the run.

        Returns:
            ``finetuned_from``, ``resumed_from``, and ``earlier_data``: what the model has learned from, if that is
            other data, and what the models had that it started from; ``None`` for a model that does not say.
        """
        facts = read_json(self.folder / FACTS)
        before = [*facts.get("earlier_data", [])]
        if not is_resumed or _which(facts.get("data")) != _which(data):
            before = [facts.get("data"), *before]
        inherited = {name: value for name, value in self.facts.items() if name == "finetuned_from"}
        origin = {**inherited, "resumed_from": self.label} if is_resumed else {"finetuned_from": self.label}
        return {**origin, "earlier_data": before}

    @property
    def training_state(self) -> Path | None:
        """The checkpoint that was pushed with it."""
        folder = self.folder / TRAINING_STATE
        return folder if (folder / STATE).is_file() else None

    def recipe(self) -> dict[str, Any]:
        """Read its recipe, for a run that starts from it; empty if it has none.

        Raises:
            ValueError: It is no YAML mapping.
        """
        return read_recipe(self.folder)


@cache
def find_origin(name: str) -> Origin:
    """Find a model to start from.

    Args:
        name: A folder, or ``user/name`` on the Hub, or ``user/name@revision``.

    Raises:
        FileNotFoundError: There is no such folder or repository.
    """
    found = resolve(name, allow_patterns=_WANTED)
    if found.commit is None and not (found.folder / GENERATOR / CONFIG).is_file():
        raise FileNotFoundError(f"{name!r} holds no model: there is no {GENERATOR}/{CONFIG} in it")
    return Origin(name, found.folder, found.commit)


def base_recipe(name: str, *, is_resumed: bool) -> dict[str, Any]:
    """Give the fields of a recipe that a run takes over from the model it starts from.

    Args:
        name: Of the model, see `find_origin`.
        is_resumed: Is it the same run that goes on? Otherwise it is another one, which needs a name of its own.

    Raises:
        FileNotFoundError: There is no such model.
        ValueError: Its recipe is broken.
    """
    fields = find_origin(name).recipe()
    its_own = (*NOT_PORTABLE, *(() if is_resumed else ("name", "weights_license")))
    fields = {key: value for key, value in fields.items() if key not in its_own}
    model = fields.get("model")
    if model is None or Path(str(model)).suffix in ARCHITECTURE_SUFFIXES:  # a file is not here, but its configs are
        fields["model"] = name
    return fields


def restore_weights(origin: Origin, generator: Generator, discriminator: Discriminator, averaged: Generator) -> str:
    """Put the weights of a model into fresh networks.

    What a repository holds is the averaged generator; the trained one starts from it too.

    Returns:
        A sentence about what was taken over and what not.

    Raises:
        ValueError: Its networks have another architecture than the run's.
        FileNotFoundError: It has no generator.
    """
    weights = _load(origin, Generator, generator).state_dict()
    if generator.label_frequencies is not None:  # those of the run's own data
        weights["label_frequencies"] = generator.label_frequencies
    generator.load_state_dict(weights)
    averaged.load_state_dict(weights)
    if not (origin.folder / DISCRIMINATOR).is_dir():
        return f"Starting from the generator of {origin.name}, which has no discriminator; new: it, optimizers."
    discriminator.load_state_dict(_load(origin, Discriminator, discriminator).state_dict())
    return f"Starting from the weights of {origin.name}, with new optimizers."


def _load(origin: Origin, network_class: type[HubModel], wanted: HubModel) -> HubModel:
    source = network_class.from_pretrained(origin.folder)
    if source.config != wanted.config:
        labels = source.config.label_names, wanted.config.label_names
        are_other = labels[0] != labels[1]
        hint = "other labels" if are_other else "another architecture"
        detail = f" ({list(labels[0])}, not {list(labels[1])})" if are_other else ""
        raise ValueError(
            f"the {network_class.subfolder} of {origin.name} has {hint} than this recipe{detail}; "
            f"{'name the same --label_columns' if are_other else f'give --model {origin.name}'}"
        )
    return source


def check_origin(
    origin: Origin, generator: Generator, discriminator: Discriminator, check: Callable[[dict[str, Any]], Any]
) -> None:
    """See whether a run can go on from a pushed training state, before anything is laid down of it.

    Args:
        origin: Has one.
        generator: Of the run.
        discriminator: Of the run.
        check: Is given the state, and raises if it does not fit.

    Raises:
        ValueError: The state is broken, or its networks have another architecture than the run's.
    """
    source = origin.training_state
    assert source is not None
    for network_class, wanted in ((Generator, generator), (Discriminator, discriminator)):
        _load(origin, network_class, wanted)
    state = read_json(source / STATE)
    numbers = [state.get(name) for name in ("images_seen", "seconds")] if isinstance(state, dict) else [None]
    problem = problem_of(source)
    if problem is None and not all(isinstance(number, int | float) and number >= 0 for number in numbers):
        problem = f"{STATE} does not say how far it is"
    if problem is not None:
        raise ValueError(f"the training state of {origin.name} is broken ({problem}): push it again, or leave it out")
    check(state)


def copy_training_state(origin: Origin, checkpoints: Path, history: Path, lineage: Mapping[str, Any]) -> None:
    """Lay a pushed training state, and the lines up to it, into a run folder, as if it had been trained there.

    Args:
        origin: Has one, which `check_origin` has found good.
        checkpoints: Folder of the run's.
        history: The run's ``metrics.jsonl``.
        lineage: Where the run comes from; kept in the state.

    Raises:
        OSError: There is no room; nothing half written is left.
    """
    copy_history(origin, history)  # first: with the checkpoint in its place nobody would come back for it
    source = origin.training_state
    assert source is not None
    state = read_json(source / STATE)
    target = checkpoints / f"images-{state['images_seen']:08d}"
    copy_checkpoint(source, target, state | {"lineage": dict(lineage)})


def copy_history(origin: Origin, history: Path) -> None:
    """Let the lines of numbers go on where those of the model end."""
    if (origin.folder / HISTORY).is_file() and not history.exists():
        with replacing(history, make_folder=True) as aside:
            shutil.copyfile(origin.folder / HISTORY, aside)


def _which(data: Mapping[str, Any] | None) -> list[Any]:
    return [(data or {}).get(name) for name in ("dataset", "split", "revision")]
