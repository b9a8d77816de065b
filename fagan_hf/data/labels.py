"""Encode the label columns of a dataset as numbers in {0, 1}."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

MAX_CLASSES = 1024  # one column each: a column with more values is an identity or a file name rather than a class


class LabelColumn(NamedTuple):
    """The values of one column, and its classes if the dataset declares them."""

    values: Sequence[Any]
    classes: Sequence[str | int] | None = None


def encode_column(name: str, column: LabelColumn) -> tuple[tuple[str, ...], np.ndarray]:
    """Encode one column: a binary attribute (bool, 0/1, CelebA's -1/1) as it is, classes as one column each.

    Returns:
        Names (`name`, or `name=class` for each class) and float32 [values, names] of 0 and 1.

    Raises:
        ValueError: A value is missing, is not a bool, int or str, or is not a declared class; or there are too many
            classes.
    """
    names, vectors = value_vectors(name, column)
    encoded = [vectors[value] for value in column.values]
    return names, np.array(encoded, np.float32).reshape(len(encoded), len(names))


def value_vectors(name: str, column: LabelColumn) -> tuple[tuple[str, ...], dict[Any, np.ndarray]]:
    """Encode each distinct value of a column, or each declared class.

    Returns:
        Names, as `encode_column` does, and float32 [names] of 0 and 1 for each value.

    Raises:
        ValueError: As for `encode_column`.
    """
    values, classes = column
    for row, value in enumerate(values):
        if not isinstance(value, bool | int | str | np.bool_ | np.integer):
            raise ValueError(
                f"Label column {name!r} contains {value!r} ({type(value).__name__}) in row {row}; "
                "a label must be a bool, an int or a str."
            )
    distinct = set(values)
    if classes is None and (distinct <= {0, 1} or distinct <= {-1, 1}):  # True == 1
        return (name,), {value: np.array([value == 1], np.float32) for value in distinct}
    if classes is None:
        classes = sorted(distinct, key=lambda value: (isinstance(value, str), value))
    if unknown := distinct - set(classes):
        raise ValueError(f"Label column {name!r} contains {unknown.pop()!r}, which is not one of {list(classes)}.")
    if len(classes) > MAX_CLASSES:
        raise ValueError(f"Label column {name!r} has {len(classes)} classes; at most {MAX_CLASSES} are allowed.")
    names = tuple(f"{name}={value}" for value in classes)
    if len(set(names)) < len(names):
        raise ValueError(
            f"Label column {name!r} has classes with the same spelling, such as 1 and '1': {list(classes)}."
        )
    return names, dict(zip(classes, np.eye(len(classes), dtype=np.float32), strict=True))
