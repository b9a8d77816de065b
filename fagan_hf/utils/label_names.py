"""The names of labels: binary attributes such as ``beard``, and classes such as ``hair=red``.

A model's config names each component of its label vectors. A name without ``=`` is a binary attribute. Names with the
same part before ``=`` are the mutually exclusive classes of one column.
"""

from collections.abc import Sequence
from typing import Any


def label_groups(names: Sequence[str]) -> dict[str, list[int]]:
    """Group the components of a label vector.

    Args:
        names: A config's `label_names`.

    Returns:
        Indices by binary attribute or column, in order: ``("beard", "hair=red", "hair=black")`` gives
        ``{"beard": [0], "hair": [1, 2]}``.
    """
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        groups.setdefault(name.partition("=")[0], []).append(place)
    return groups


def is_binary(names: Sequence[str], places: Sequence[int]) -> bool:
    """Return whether these places of a label vector are those of a binary attribute."""
    return len(places) == 1 and "=" not in names[places[0]]


def label_values(names: Sequence[str]) -> list[dict[str, Any]]:
    """List all single labels that can be requested: each binary attribute false and true, each class.

    Returns:
        For example ``[{"beard": False}, {"beard": True}, {"hair": "red"}, {"hair": "black"}]``.
    """
    values: list[dict[str, Any]] = []
    for column, places in label_groups(names).items():
        if is_binary(names, places):
            values += [{column: False}, {column: True}]
        else:
            values += [{column: names[place].partition("=")[2]} for place in places]
    return values
