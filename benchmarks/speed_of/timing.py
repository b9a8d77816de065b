"""Time things in turns, so that whatever else the machine does falls on all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Times:
    """How long one thing took, each time.

    Attributes:
        seconds: In the order of the rounds.
    """

    seconds: Sequence[float]

    @property
    def median(self) -> float:
        """The middle one [s]."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between which the middle half lies [s]."""
        if len(self.seconds) == 1:
            return self.seconds[0], self.seconds[0]
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high

    def to_json(self) -> dict[str, Any]:
        """Give the numbers for a file of results."""
        low, high = self.quartiles
        return {
            "median_seconds": round(self.median, 6),
            "quartiles_seconds": [round(low, 6), round(high, 6)],
            "rounds": len(self.seconds),
        }


def alternate(
    works: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    device: str = "cpu",
    is_warm: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Times]:
    """Do each work once in every round, and say how long each took.

    Args:
        works: What to do, by name.
        rounds: How often.
        device: Where it is done: a GPU is waited for.
        is_warm: Has each been done before? Otherwise there is a first round that does not count.
        clock: Gives seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(1 if is_warm else 0, rounds + 1):
        for name, work in works.items():
            started = clock()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            if number:
                seconds[name].append(clock() - started)
    return {name: Times(each) for name, each in seconds.items()}


def growth(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Fit the power of the size that a cost grows with: 1 for linear, 2 for quadratic."""
    return statistics.linear_regression(*([torch.tensor(each).log().tolist() for each in (sizes, costs)])).slope
