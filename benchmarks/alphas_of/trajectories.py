"""How gates move over training, and how much seeds differ."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fagan_hf.attention_maps.gate_history import read_gates

POINTS = 64
History = Mapping[str, Any]
"""``images``, ascending, and ``gates``: numbers by name, as many."""


def read_history(run: Path) -> dict[str, Any]:
    """Read the gates of a run at `POINTS` moments at most, the last one included.

    Raises:
        FileNotFoundError: The run has no history.
        ValueError: Its networks have no gates, or its history is not that of a run.
    """
    found = read_gates(run)
    last = len(found.images) - 1
    chosen = np.unique(np.linspace(0, last, min(POINTS, last + 1)).round().astype(int))
    return {
        "images": found.images[chosen].tolist(),
        "gates": {name: [round(float(each), 4) for each in gate[chosen]] for name, gate in found.gates.items()},
    }


def check_same_gates(histories: Mapping[str, History]) -> list[str]:
    """Return the names of the gates that all runs have.

    Raises:
        ValueError: There are no runs, or their architectures have different gates; names two such runs.
    """
    if not histories:
        raise ValueError("there are no runs to plot")
    first, *others = histories
    names = list(histories[first]["gates"])
    for other in others:
        if set(names) != set(histories[other]["gates"]):
            differing = sorted(set(names) ^ set(histories[other]["gates"]))
            raise ValueError(
                f"runs {first} and {other} have different architectures: only one of them has {differing[0]}; plot "
                "runs of one architecture at a time"
            )
    return names


def spread(histories: Sequence[History], name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return images, and mean, minimum and maximum of a gate over runs, for the span that all of them cover."""
    begin, end = (max(each["images"][0] for each in histories), min(each["images"][-1] for each in histories))
    images = np.linspace(begin, end, POINTS)
    values = np.stack([np.interp(images, each["images"], each["gates"][name]) for each in histories])
    return images, values.mean(0), values.min(0), values.max(0)


def sign_agreement(histories: Sequence[History], name: str) -> tuple[int, int]:
    """Return how many runs end with the more common sign of a gate, and of how many."""
    signs = [np.sign(each["gates"][name][-1]) for each in histories]
    return max(signs.count(sign) for sign in signs), len(signs)
