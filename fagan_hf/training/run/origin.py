"""The model that a run starts from: resumed where its training stopped, or fine-tuned on other images."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from fagan_hf.hub.checkpoints import checkpoint_at
from fagan_hf.hub.publishing import NOT_PORTABLE
from fagan_hf.hub.repository import (
    ARCHITECTURE_SUFFIXES,
    CHECKPOINTS,
    CONFIG,
    DISCRIMINATOR,
    FACTS,
    GENERATOR,
    HISTORY,
    RECIPE,
    STATE,
    TRAINING_STATE,
    WEIGHTS,
    checkpoints_in,
    images_of,
    read_json,
    read_recipe,
)
from fagan_hf.hub.snapshot import resolve
from fagan_hf.models import Discriminator, Generator
from fagan_hf.models.hub_model import HubModel
from fagan_hf.training.run.checkpoint import copy_checkpoint, problem_of
from fagan_hf.training.run.transfer import Carried, carry_over, fits, layers_of
from fagan_hf.utils.files import replacing

_WANTED = [*(f"{name}/{file}" for name in (GENERATOR, DISCRIMINATOR) for file in (CONFIG, WEIGHTS))]
_WANTED += [CONFIG, FACTS, HISTORY, RECIPE, f"{TRAINING_STATE}/*"]
ITS_OWN = (*NOT_PORTABLE, "name", "model", "dataset")
"""Recipe fields that may differ from those of a model without a note: networks and images are compared themselves."""


@dataclass(frozen=True)
class Origin:
    """A local model folder, or a snapshot of a Hub repository.

    Attributes:
        name: As given by the user.
        folder: Folder of its files.
        commit: Commit of the repository; ``None`` for a local folder.
        checkpoint: The checkpoint of a local run to resume at [images]; ``None`` for the newest.
    """

    name: str
    folder: Path
    commit: str | None = None
    checkpoint: int | None = None

    def at(self, checkpoint: int, run_dir: Path) -> "Origin":
        """Return the same run at an earlier checkpoint, to be resumed in another folder.

        Raises:
            ValueError: It would be resumed in its own folder.
        """
        if self.folder.resolve() == run_dir.resolve():
            raise ValueError(
                f"checkpoint is {checkpoint}, but {self.name} can't be resumed there in its own folder: everything "
                "after it would be lost. Choose another --name, or leave out --checkpoint to resume at the newest"
            )
        return replace(self, checkpoint=checkpoint)

    @property
    def label(self) -> str:
        """Its name on a card: ``user/name@commit``, or the folder's name."""
        return f"{self.name.partition('@')[0]}@{self.commit}" if self.commit else self.folder.resolve().name

    @property
    def facts(self) -> dict[str, Any]:
        """Recorded facts about its training; empty if there are none."""
        return read_json(self.folder / FACTS).get("training", {})

    def lineage(self, *, is_resumed: bool, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the lineage of a run that starts from it; a fine-tuned model remains marked as fine-tuned.

        Args:
            is_resumed: Whether the same run is resumed.
            data: Description of the images of the run.

        Returns:
            ``finetuned_from``, ``resumed_from``, and ``earlier_data``: the data that this model and its own ancestors
            were trained on, where it differs; ``None`` for a model with no record of its data.
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
        """The checkpoint to resume from: of a local run the chosen or the newest intact one, else a pushed one, if any.

        Raises:
            FileNotFoundError: The chosen checkpoint does not exist; lists those that do.
            ValueError: A checkpoint is chosen, but the model is on the Hub.
        """
        if self.checkpoint is not None:
            return checkpoint_at(self.name, self.checkpoint)
        if found := checkpoints_in(self.folder / CHECKPOINTS):
            return next((path for path in reversed(found) if problem_of(path) is None), found[-1])
        pushed = self.folder / TRAINING_STATE
        return pushed if (pushed / STATE).is_file() else None

    @property
    def images_seen(self) -> int:
        """Number of images at which a run that resumes it starts, as far as it is recorded."""
        if self.checkpoint is not None:  # which may be gone by now
            return self.checkpoint
        state = self.training_state
        if state is not None and state.parent.name == CHECKPOINTS:
            return images_of(state)
        return self.facts.get("images_seen", 0)

    def recipe(self) -> dict[str, Any]:
        """Read its recipe, for a run that starts from it; empty if it has none.

        Raises:
            ValueError: The recipe is not a YAML mapping.
        """
        return read_recipe(self.folder)


@cache
def find_origin(name: str) -> Origin:
    """Find a model to start from.

    Args:
        name: A local folder, or ``user/name`` or ``user/name@revision`` on the Hub.

    Raises:
        FileNotFoundError: There is no such folder or repository.
    """
    found = resolve(name, allow_patterns=_WANTED)
    if found.commit is None and not (found.folder / GENERATOR / CONFIG).is_file():
        raise FileNotFoundError(f"{name!r} does not contain a model: {GENERATOR}/{CONFIG} is missing")
    return Origin(name, found.folder, found.commit)


def base_recipe(name: str, *, is_resumed: bool) -> dict[str, Any]:
    """Return the recipe fields that a run inherits from the model it starts from.

    Args:
        name: Name of the model, see `find_origin`.
        is_resumed: Whether the same run is resumed. Otherwise it is a new run, which needs its own name.

    Raises:
        FileNotFoundError: There is no such model.
        ValueError: Its recipe is corrupt.
    """
    fields = find_origin(name).recipe()
    its_own = (*NOT_PORTABLE, *(() if is_resumed else ("name", "weights_license")))
    fields = {key: value for key, value in fields.items() if key not in its_own}
    model = fields.get("model")
    if (
        model is None or Path(str(model)).suffix in ARCHITECTURE_SUFFIXES
    ):  # the file is not available here, but its configs are
        fields["model"] = name
    return fields


def restore_weights(
    origin: Origin,
    generator: Generator,
    discriminator: Discriminator,
    averaged: Generator,
    *,
    may_adapt: bool = False,
    frozen_layers: int = 0,
) -> str:
    """Load the weights of a model into new networks.

    A repository holds the averaged generator; the trained one is initialized from it too.

    Args:
        origin: The model.
        generator: Generator of the run.
        discriminator: Discriminator of the run.
        averaged: Averaged generator of the run.
        may_adapt: Whether the networks may have other labels, image channels or image sizes: what these touch is
            converted if that is possible, and else keeps its initialization.
        frozen_layers: Number of the discriminator's first layers that will not be trained.

    Returns:
        A message that says what was loaded and what was not.

    Raises:
        ValueError: The model's architecture differs from the run's, or a layer would be frozen at random weights.
        FileNotFoundError: The model has no generator.
    """
    weights, converted, new = _load(origin, Generator, generator, may_adapt=may_adapt)
    if generator.label_frequencies is not None:  # those of the run's own data
        weights["label_frequencies"] = generator.label_frequencies
    generator.load_state_dict(weights)
    averaged.load_state_dict(weights)
    if not (origin.folder / DISCRIMINATOR).is_dir():
        return (
            f"Starting from the generator of {origin.name}, which has no discriminator: "
            "discriminator and optimizers are reinitialized."
        )
    weights, converted_too, new_too = _load(origin, Discriminator, discriminator, may_adapt=may_adapt)
    for index in range(frozen_layers):
        if f"layers.{index}" in layers_of(new_too):
            raise ValueError(
                f"freeze_discriminator_layers is {frozen_layers}, but layer {index} of the discriminator of "
                f"{origin.name} does not fit these images, and would be frozen at random weights; leave it out"
            )
    discriminator.load_state_dict(weights)
    said = f"Starting from the weights of {origin.name}; optimizers are reinitialized."
    fresh = _named([name for name in new if name != "label_frequencies"], new_too)
    if converted or converted_too:
        said += f" Converted to other image channels: {_named(converted, converted_too)}."
    if fresh:
        kept = f"{_kept('generator', generator, new)}, {_kept('discriminator', discriminator, new_too)}"
        said += f" Kept: {kept}. Reinitialized for other labels, channels or sizes: {fresh}."
    return said


def _named(of_generator: list[str], of_discriminator: list[str]) -> str:
    """Name the layers that tensors belong to."""
    both = (("generator", of_generator), ("discriminator", of_discriminator))
    return ", ".join(f"{network} {layer}" for network, names in both for layer in layers_of(names))


def _kept(name: str, network: HubModel, new: list[str]) -> str:
    """Say what share of a network's parameters comes from the model."""
    sizes = {key: tensor.numel() for key, tensor in network.named_parameters()}
    kept = sum(size for key, size in sizes.items() if key not in new)
    return f"{kept:,} of {sum(sizes.values()):,} parameters of the {name}"


def check_frozen_origin(origin: Origin, *, is_resumed: bool) -> None:
    """Check that a model has discriminator layers worth freezing.

    Args:
        origin: Model that the run starts from.
        is_resumed: Whether the same run is resumed, rather than a new one started from its weights.

    Raises:
        ValueError: It has no discriminator, or is resumed without having been fine-tuned.
    """
    if not (origin.folder / DISCRIMINATOR).is_dir():
        raise ValueError(
            f"freeze_discriminator_layers is set, but {origin.name} has no discriminator: its layers would stay "
            "random. Leave it out, or fine-tune a model with a discriminator"
        )
    if is_resumed and "finetuned_from" not in origin.facts:
        raise ValueError(
            f"freeze_discriminator_layers is set, but {origin.name} was trained from scratch, and resume_from resumes "
            "it as it was; use --finetune_from instead, with a new --name"
        )


def _load(origin: Origin, network_class: type[HubModel], wanted: HubModel, *, may_adapt: bool = False) -> Carried:
    """Return the weights of a model for a network."""
    source = network_class.from_pretrained(origin.folder)
    if source.config == wanted.config:
        return Carried(source.state_dict(), [], [])
    is_near = fits(source.config, wanted.config)
    if may_adapt and is_near:
        return carry_over(source, wanted)
    labels = source.config.label_names, wanted.config.label_names
    if labels[0] != labels[1]:
        what, remedy = "other labels", "use the same --label_columns"
        detail = f" ({list(labels[0])}, not {list(labels[1])})"
    elif is_near and source.config.image_size == wanted.config.image_size:
        what, remedy, detail = "other image channels", "use the same --channels", ""
    elif is_near:
        what, remedy, detail = "another image size", f"use --model {origin.name}", ""
    elif may_adapt and source.config.image_size != wanted.config.image_size:
        sizes = f"{source.config.image_size} to {wanted.config.image_size} pixels"
        what, remedy = "another architecture", f"use --model {origin.name}"
        detail = f" (from {sizes} a model grows only into one whose layers away from the image are the same)"
    else:
        what, remedy, detail = "another architecture", f"use --model {origin.name}", ""
    if is_near:
        remedy += f", or start a new run with --finetune_from {origin.name}, which adapts the model"
    raise ValueError(f"the {network_class.subfolder} of {origin.name} has {what} than this recipe{detail}; {remedy}")


def check_origin(
    origin: Origin,
    source: Path,
    generator: Generator,
    discriminator: Discriminator,
    check: Callable[[dict[str, Any]], Any],
) -> None:
    """Check that a run can resume from the training state of a model, before any of it is copied.

    Args:
        origin: The model.
        source: Its training state.
        generator: Generator of the run.
        discriminator: Discriminator of the run.
        check: Called with the state; raises if it does not fit.

    Raises:
        ValueError: The state is corrupt, or its architecture differs from the run's.
    """
    for network_class, wanted in ((Generator, generator), (Discriminator, discriminator)):
        _load(origin, network_class, wanted)
    state = read_json(source / STATE)
    numbers = [state.get(name) for name in ("images_seen", "seconds")] if isinstance(state, dict) else [None]
    problem = problem_of(source)
    if problem is None and not all(isinstance(number, int | float) and number >= 0 for number in numbers):
        problem = f"{STATE} does not record its progress"
    if problem is not None:
        raise ValueError(f"the training state of {origin.name} is corrupt ({problem}): {_advice(source)}")
    check(state)


def _advice(source: Path) -> str:
    return "choose another with --checkpoint" if source.parent.name == CHECKPOINTS else "push it again, or leave it out"


def copy_training_state(
    origin: Origin, source: Path, checkpoints: Path, history: Path, lineage: Mapping[str, Any]
) -> None:
    """Copy a training state, with its history of metrics, into a run folder, as if it had been trained there.

    Args:
        origin: The model.
        source: Its training state, which `check_origin` has accepted.
        checkpoints: Folder of the run's checkpoints.
        history: The run's ``metrics.jsonl``.
        lineage: Lineage of the run, saved in the state.

    Raises:
        OSError: The disk is full; nothing half written is left.
    """
    copy_history(origin, history)  # first, because once the checkpoint exists this step is not retried
    state = read_json(source / STATE)
    target = checkpoints / f"images-{state['images_seen']:08d}"
    copy_checkpoint(source, target, state | {"lineage": dict(lineage)})


def copy_history(origin: Origin, history: Path) -> None:
    """Continue the lines of metrics where those of the model end."""
    if (origin.folder / HISTORY).is_file() and not history.exists():
        with replacing(history, make_folder=True) as aside:
            shutil.copyfile(origin.folder / HISTORY, aside)


def _which(data: Mapping[str, Any] | None) -> list[Any]:
    return [(data or {}).get(name) for name in ("dataset", "split", "revision")]
