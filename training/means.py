"""Means of what steps tell, summed up on the device: nothing waits for it before a line is written."""

from collections.abc import Mapping

import torch
from torch import Tensor


class Means:
    """Sums of numbers by name since the last line; numbers that are not finite are left out.

    Args:
        device: Where the numbers are.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._sums: dict[tuple[str, ...], Tensor] = {}  # names told together -> [sums and counts, names]

    def add(self, numbers: Mapping[str, Tensor]) -> None:
        """Add the scalars of a step."""
        values = torch.stack([number.float() for number in numbers.values()])
        is_finite = values.isfinite()
        rows = torch.stack([torch.where(is_finite, values, 0.0), is_finite.float()])
        names = tuple(numbers)
        self._sums[names] = self._sums[names] + rows if names in self._sums else rows

    @property
    def is_empty(self) -> bool:
        """Has nothing been added?"""
        return not self._sums

    def names(self) -> list[str]:
        """Give the names of all numbers, each once, in the order in which they came."""
        return list(dict.fromkeys(name for names in self._sums for name in names))

    def table(self) -> Tensor:
        """Give sums and counts as ``[2, names]``, in the order of `names`."""
        columns = {name: torch.zeros(2, device=self.device) for name in self.names()}
        for names, rows in self._sums.items():
            for name, column in zip(names, rows.unbind(1), strict=True):
                columns[name] = columns[name] + column
        return torch.stack(list(columns.values()), 1) if columns else torch.zeros(2, 0, device=self.device)

    def take_up(self, names: list[str], table: Tensor) -> None:
        """Go on from what `names` and `table` gave."""
        table = table.to(self.device)
        self._sums = {(name,): table[:, [column]] for column, name in enumerate(names)}

    def clear(self) -> None:
        """Begin anew."""
        self._sums = {}


def means_of(names: list[str], tables: Tensor) -> dict[str, float]:
    """Combine the tables of all processes, ``[processes, 2, names]``: the mean of each process's mean counts the same.

    Returns:
        What was finite at least once.
    """
    sums, counts = tables.double().unbind(1)
    has_any = counts > 0
    means = torch.where(has_any, sums / counts.clamp(min=1), 0.0).sum(0) / has_any.sum(0).clamp(min=1)
    return {
        name: mean for name, mean, known in zip(names, means.tolist(), has_any.any(0).tolist(), strict=True) if known
    }
