"""The names of labels: binary attributes such as ``beard``, and classes such as ``hair=red``.

A model's config names each number of its label vectors. A name without ``=`` is a binary attribute. Names that share
what stands before ``=`` are the classes of one column, of which one holds.
"""

from collections.abc import Sequence
from typing import Any


def label_groups(names: Sequence[str]) -> dict[str, list[int]]:
    """Find which places of a label vector belong together.

    Args:
        names: A config's `label_names`.

    Returns:
        Places by claim or column, in order: ``("beard", "hair=red", "hair=black")`` gives
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
    """List what can be wished for, one at a time: each claim false and true, each class.

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
