"""Convert labels by name to label vectors: unspecified labels are sampled as in the training data."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fagan_hf.utils.label_names import is_binary, label_groups
from fagan_hf.utils.suggest import suggest

# Separates the sampling of labels from everything else that is sampled from the same seeds.
_STREAM = 0x1ABE15


def encode_labels(names: Sequence[str], labels: Mapping[str, Any]) -> dict[int, float]:
    """Encode requested labels as components of a label vector.

    Args:
        names: A config's `label_names`.
        labels: Binary attributes as ``{"beard": True}`` (or a number from 0 to 1), classes as ``{"hair": "red"}``,
            mixed as ``{"hair=red": 0.5, "hair=gray": 0.5}``, or excluded as ``{"hair=red": False}``. Strings such as
            ``"true"``, ``"0"`` and ``"0.5"`` are parsed.

    Returns:
        Values by index in the label vector, for the specified components.

    Raises:
        ValueError: There is no such label, a value is not allowed, or a column's classes don't add up to 1; lists the
            existing labels.
    """
    groups = label_groups(names)
    decided: dict[int, float] = {}
    for name, value in labels.items():
        column = name.partition("=")[0]
        if name not in names and name not in groups:
            raise ValueError(f"unknown label {name!r}; {suggest(name, groups)}{_explain(names, groups)}")
        places = groups[column]
        if name in names:
            decided[names.index(name)] = _number(name, value)
        else:
            classes = [names[place].partition("=")[2] for place in places]
            if str(value) not in classes:
                raise ValueError(f"label {name} is {value!r}; {suggest(str(value), classes)}")
            decided |= {place: float(each == str(value)) for place, each in zip(places, classes, strict=True)}
    for column, places in groups.items():
        if not is_binary(names, places):
            decided |= _complete(column, [names[place] for place in places], places, decided)
    return decided


def _complete(
    column: str, names: Sequence[str], places: Sequence[int], decided: Mapping[int, float]
) -> dict[int, float]:
    """Set the unspecified classes of a column to 0 if the specified ones add up to 1."""
    numbers = [decided[place] for place in places if place in decided]
    total = sum(numbers)
    is_open = total == 0 and len(numbers) < len(places)  # at most, some classes were excluded
    if is_open:
        return {}
    if abs(total - 1) > 1e-6:
        raise ValueError(f"labels {', '.join(names)} add up to {total:g}; the classes of {column} must add up to 1")
    return {place: decided.get(place, 0.0) for place in places}


def parse_label(names: Sequence[str], text: str) -> tuple[str, str]:
    """Split ``"beard=1"``, ``"hair=red"`` or ``"hair=red=0.5"`` into a name and a value, given the existing names.

    Raises:
        ValueError: It contains no ``=``.
    """
    if "=" not in text:
        raise ValueError(f"label is {text!r}; write it like beard=1 or hair=red")
    column, _, value = text.partition("=")
    if text in names:  # a class whose name contains =
        return column, value
    name, _, number = text.rpartition("=")
    return (name, number) if name in names else (column, value)


def draw_labels(
    names: Sequence[str],
    frequencies: Float[Tensor, " num_labels"],
    seeds: Sequence[int],
    labels: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
) -> Float[Tensor, "count num_labels"]:
    """Sample a label vector for each seed, with the requested labels set.

    Unspecified binary attributes and columns are sampled independently, with their frequencies in the training data. A
    requested label changes no other label of its seed.

    Args:
        names: A config's `label_names`.
        frequencies: Frequency of each label, from 0 to 1.
        seeds: One for each vector.
        labels: See `encode_labels`; for all vectors, or a list with one mapping for each.

    Returns:
        float32, numbers from 0 to 1, on the CPU.

    Raises:
        ValueError: See `encode_labels`; or the numbers of mappings and seeds differ.
    """
    if isinstance(labels, Mapping) or labels is None:
        decided = [encode_labels(names, labels or {})] * len(seeds)
    elif isinstance(labels, Sequence) and all(isinstance(each, Mapping) for each in labels):
        decided = [encode_labels(names, each) for each in labels]
    else:
        raise ValueError(f"labels are {labels!r}; they must be a mapping of names to values, or a list of mappings")
    if len(decided) != len(seeds):
        raise ValueError(
            f"there are {len(decided)} label mappings for {len(seeds)} images; give one for all, or one for each"
        )
    groups = list(label_groups(names).values())
    odds = frequencies.cpu().double().numpy()  # in this order: Apple's GPUs have no doubles
    vectors = np.zeros((len(seeds), len(names)), np.float32)
    for vector, seed, fixed in zip(vectors, seeds, decided, strict=True):
        draws = np.random.default_rng([_STREAM, seed]).random(len(groups))
        for draw, places in zip(draws, groups, strict=True):
            if is_binary(names, places):
                vector[places] = draw < odds[places]
            elif not all(place in fixed for place in places):
                vector[_draw_class([place for place in places if place not in fixed], odds, draw)] = 1
        for place, number in fixed.items():
            vector[place] = number
    return torch.from_numpy(vectors)


def _draw_class(places: Sequence[int], odds: np.ndarray, draw: float) -> int:
    """Sample one of the remaining classes with their relative frequencies."""
    left = odds[places] if odds[places].any() else np.ones(len(places))  # none of them occurs in the data
    steps = np.cumsum(left)
    return places[min(int(np.searchsorted(steps, draw * steps[-1], side="right")), len(places) - 1)]


def _number(name: str, value: Any) -> float:
    words = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}
    try:
        number = words[value.lower()] if isinstance(value, str) and value.lower() in words else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not 0 <= number <= 1:
        raise ValueError(f"label {name} is {value!r}; it must be true, false, or a number from 0 to 1")
    return number


def _explain(names: Sequence[str], groups: Mapping[str, list[int]]) -> str:
    classes = {
        column: ", ".join(names[place].partition("=")[2] for place in places)
        for column, places in groups.items()
        if not is_binary(names, places)
    }
    return "".join(f"; {column} is one of {values}" for column, values in classes.items())
