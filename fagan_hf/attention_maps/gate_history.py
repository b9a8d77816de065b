"""How the gates of a run have moved while it trained."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from fagan_hf.hub.repository import HISTORY
from fagan_hf.hub.snapshot import resolve
from fagan_hf.viz.plots import GATE_NAMES, read_metrics


@dataclass(frozen=True, eq=False)
class GateHistory:
    """The trained gates of a run, as its ``metrics.jsonl`` has recorded them.

    Attributes:
        images: Real images seen, ascending.
        gates: By network, layer and name, such as ``"generator.layers.0.alpha"``: the gate at each of these moments;
            NaN where it was not recorded.
    """

    images: Int[np.ndarray, " lines"]
    gates: dict[str, Float[np.ndarray, " lines"]]


def read_gates(run: str | Path) -> GateHistory:
    """Read the gates of a run's networks over its training. They are the trained ones, not the saved average's.

    Args:
        run: A run folder, or ``user/name`` or ``user/name@revision`` on the Hub.

    Raises:
        FileNotFoundError: There is no such folder or repository, or it has no history.
        ValueError: A line of the history is invalid, or its networks have no gates.
    """
    folder = resolve(str(run), allow_patterns=[HISTORY]).folder
    lines = read_metrics(folder / HISTORY)
    if not lines:
        raise FileNotFoundError(
            f"{run} has no history: {HISTORY} is missing or empty. Runs write it while they train; choose a run "
            "folder, or a repository that was pushed from one"
        )
    names = dict.fromkeys(
        name for line in lines if isinstance(line, dict) for name in line if name.endswith(GATE_NAMES)
    )
    if not names:
        raise ValueError(f"{run} has no gates in its history: neither network has an attention layer")
    try:
        gates = {name: np.array([line.get(name, math.nan) for line in lines], dtype=np.float64) for name in names}
        return GateHistory(np.array([line["images"] for line in lines], dtype=np.int64), gates)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:  # somebody else wrote it
        raise ValueError(
            f"the history of {run} is not that of a run ({type(error).__name__}: {error}); each line of {HISTORY} must "
            "have the number of images seen, and numbers as gates"
        ) from error
