"""Targets of the speed benchmarks, and the rows of their result tables."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.speed_of.settings import NO_BF16


@dataclass(frozen=True)
class Target:
    """Target of a number.

    Attributes:
        must: Passes from here on.
        aim: Stretch goal.
        is_limit: Is lower better?
    """

    must: float
    aim: float | None = None
    is_limit: bool = False


# Ratios to the peer, on two CPU cores. Ours in bf16 is compared with the peer in fp32, the only precision it supports.
TARGETS = {
    "step, relativistic, fp32":                Target(3.5, 5),
    "step, relativistic, bf16":                Target(6, 8),
    "step, hinge, fp32":                       Target(1.8, 2.5),
    "step, hinge, bf16":                       Target(3, 4),
    "step memory, fp32":                       Target(4, 6),
    "step memory, bf16":                       Target(7, 9),
    "full at 64x64, step, fp32":               Target(4.5, 6),
    "full at 64x64, step, bf16":               Target(6, 9),
    "layer memory, 128->64 at N=4,096, fp32":  Target(15, 20),
    "layer memory, 128->64 at N=4,096, bf16":  Target(20, 30),
    "layer memory, 64->32 at N=16,384, fp32":  Target(100, 137),
    "layer memory, 64->32 at N=16,384, bf16":  Target(150),
    "sampling, batch 64, fp32":                Target(1.6, 2),
    "sampling, batch 64, bf16":                Target(3.5, 4.5),
    "import fagan_hf":                         Target(0.3, is_limit=True),
    "fagan-hf generate, to import torch":      Target(1.6, is_limit=True),
    "memory of a step, fagan-256, batch 4":         Target(3 * 2**30 / 1e9, is_limit=True),
    "memory of a step, fagan-256-small, batch 4":   Target(3 * 2**30 / 1e9, is_limit=True),
    "pooled keys to all keys, 256x256":        Target(8),
    "loader to step, fagan-classic-64":        Target(20),
    "loader to step, fagan-plain-32":          Target(20),
}  # fmt: skip

Mark = Literal["pass", "short", ""]


def mark(name: str, value: float | None) -> Mark:
    """Return whether a number reaches its target; an empty text if it has no target or was not measured."""
    target = TARGETS.get(name)
    if target is None or value is None:
        return ""
    return "pass" if (value <= target.must if target.is_limit else value >= target.must) else "short"


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name: What was measured; a key of `TARGETS` if there is a target.
        value: The result; ``None`` if it could not be measured.
        unit: Unit of the value; ``"x"`` for a ratio.
        note: The numbers behind it, or why it could not be measured.
    """

    name: str
    value: float | None
    unit: str = "x"
    note: str = ""

    def __str__(self) -> str:
        target = TARGETS.get(self.name)
        value = "-" if self.value is None else f"{self.value:,.{2 if abs(self.value) < 100 else 0}f} {self.unit}"
        wanted = ""
        if target is not None:
            aim = "" if target.aim is None else f", aim {target.aim:g}"
            wanted = f"{'at most' if target.is_limit else 'must'} {target.must:g}{aim}"
        return f"{self.name:<42} {value:>14}  {wanted:<17} {mark(self.name, self.value):<5}  {self.note}".rstrip()

    def to_json(self) -> dict[str, Any]:
        """Convert the row for a results file."""
        target = TARGETS.get(self.name)
        row: dict[str, Any] = {"name": self.name, "value": None if self.value is None else round(self.value, 4)}
        row["unit"] = self.unit
        if target is not None:
            row |= {"at_most" if target.is_limit else "must": target.must, "aim": target.aim}
            row["mark"] = mark(self.name, self.value)
        return row | ({"note": self.note} if self.note else {})


@dataclass(frozen=True)
class Found:
    """Results of a benchmark.

    Attributes:
        rows: Rows of the table.
        details: The underlying numbers, as JSON.
    """

    rows: list[Row]
    details: dict[str, Any]


def rows_against_peer(
    name: str, costs: Mapping[str, float], tell: Callable[[float], str], no_peer: str = ""
) -> list[Row]:
    """Make rows with the ratio of the peer's cost to ours, one for each precision.

    Args:
        name: Name of the measurement.
        costs: Seconds or bytes, by ``"peer"``, ``"fp32"`` and ``"bf16"``; missing ones were not measured.
        tell: Formats a cost.
        no_peer: Why the peer was not measured, if it was not.
    """
    rows = []
    for precision in ("fp32", "bf16"):
        ours, theirs = costs.get(precision), costs.get("peer")
        ratio = theirs / ours if ours and theirs else None
        note = (
            NO_BF16 if ours is None else f"ours {tell(ours)}; {no_peer if theirs is None else f'peer {tell(theirs)}'}"
        )
        rows.append(Row(f"{name}, {precision}", ratio, note=note))
    return rows
