"""Time functions alternately, so that other load on the machine affects all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Times:
    """Timings of one function.

    Attributes:
        seconds: One per round, in order.
    """

    seconds: Sequence[float]

    @property
    def median(self) -> float:
        """Median [s]."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile [s]."""
        if len(self.seconds) == 1:
            return self.seconds[0], self.seconds[0]
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high

    def to_json(self) -> dict[str, Any]:
        """Convert the numbers for a results file."""
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
    """Call each function once in every round, and time the calls.

    Args:
        works: Functions by name.
        rounds: Number of timed calls of each.
        device: ``"cuda"`` to synchronize after each call.
        is_warm: Are they warmed up already? Otherwise there is a first round that does not count.
        clock: Returns the time [s].
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
    """Fit the exponent with which a cost grows with the size: 1 for linear, 2 for quadratic."""
    return statistics.linear_regression(*([torch.tensor(each).log().tolist() for each in (sizes, costs)])).slope
