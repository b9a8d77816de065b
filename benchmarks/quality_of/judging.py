"""Judging arms by their runs: means over seeds, and paired differences with their standard error."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.quality_of.arms import ARMS

SHOWN = ("fd", "kid", "precision", "recall", "coverage")
LOWER_IS_BETTER = ("fd", "kid")
SEPARATED = 2.0
"""Standard errors from which a difference counts."""
Runs = Mapping[str, Mapping[str, Any]]


class Difference(NamedTuple):
    """The difference of an arm to the flagship, over the seeds that both have.

    Attributes:
        mean: Mean over seeds, arm minus flagship.
        error: Standard error of the mean; ``None`` for a single seed.
        seeds: Number of seeds.
    """

    mean: float
    error: float | None
    seeds: int

    @property
    def is_decided(self) -> bool:
        """Whether the mean is `SEPARATED` standard errors from 0; never for a single seed."""
        return self.error is not None and abs(self.mean) >= SEPARATED * self.error

    def verdict(self, *, lower_is_better: bool) -> str:
        """Say in a word whether the arm is better or worse than the flagship, or that it is undecided."""
        if not self.is_decided or not self.mean:
            return "undecided"
        return "better" if (self.mean < 0) == lower_is_better else "worse"


def distance(metrics: Mapping[str, float]) -> str:
    """Name the distance by which runs are judged: kid where there are too few images for fd."""
    return "fd" if "fd" in metrics else "kid"


def difference(runs: Runs, arm: str, features: str, metric: str, *, reference: str = "flagship") -> Difference | None:
    """Compare an arm with the flagship, seed by seed; ``None`` if they have no seed in common."""
    values = {
        name: {run["seed"]: run["metrics"][features][metric] for run in of_arm(runs, name)} for name in (arm, reference)
    }
    seeds = values[arm].keys() & values[reference].keys()
    if not seeds:
        return None
    found = [values[arm][seed] - values[reference][seed] for seed in sorted(seeds)]
    error = statistics.stdev(found) / len(found) ** 0.5 if len(found) > 1 else None
    return Difference(statistics.mean(found), error, len(found))


def of_arm(runs: Runs, arm: str) -> list[Mapping[str, Any]]:
    """Return an arm's runs, by seed."""
    return sorted((run for run in runs.values() if run["arm"] == arm), key=lambda run: run["seed"])


def table(runs: Runs, arms: Sequence[str], features: str) -> str:
    """Format a Markdown table: mean ± standard deviation over seeds, and the distance's difference to the flagship."""
    measured = [run["metrics"][features] for run in runs.values()]
    shown = [name for name in SHOWN if all(name in each for each in measured)]
    judged = shown[0] if measured else SHOWN[0]
    heads = [f"{name} {'↓' if name in LOWER_IS_BETTER else '↑'}" for name in shown]
    lines = [f"| {features} | seeds | images | " + " | ".join(heads) + f" | difference in {judged} | |"]
    lines.append("| --- " * (len(shown) + 5) + "|")
    for arm in arms:
        if not (found := of_arm(runs, arm)):
            continue
        cells = [_spread([run["metrics"][features][name] for run in found]) for name in shown]
        cells += _compared(difference(runs, arm, features, judged)) if arm != "flagship" else ["", ""]
        lines.append(f"| {ARMS[arm].about} | {len(found)} | {found[0]['images']:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _compared(found: Difference | None) -> list[str]:
    if found is None:
        return ["", ""]
    error = "" if found.error is None else f" ± {found.error:.2g}"
    return [f"{found.mean:+.3g}{error}", found.verdict(lower_is_better=True)]


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.3g}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.2g}"
