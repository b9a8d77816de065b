"""Means of what steps tell, summed up on the device: nothing waits for it before a line is written."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional


class Means:
    """Sums of numbers by name since the last line; numbers that are not finite are left out.

    Args:
        device: Where the numbers are.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._columns: dict[str, int] = {}
        self._table = torch.zeros(2, 0, device=device)  # sums and counts, by column
        self._indices: dict[tuple[str, ...], Tensor] = {}  # names told together -> their columns

    def add(self, numbers: Mapping[str, Tensor]) -> None:
        """Add the scalars of a step."""
        values = torch.stack([number.float() for number in numbers.values()])
        is_finite = values.isfinite()
        rows = torch.stack([torch.where(is_finite, values, 0.0), is_finite.float()])
        names = tuple(numbers)
        if names not in self._indices:
            for name in names:
                self._columns.setdefault(name, len(self._columns))
            self._table = functional.pad(self._table, (0, len(self._columns) - self._table.shape[1]))
            self._indices[names] = torch.tensor([self._columns[name] for name in names], device=self.device)
        # In the order in which they come, whether they were taken up in between or not: rounding is the same.
        self._table = self._table.index_add(1, self._indices[names], rows)

    def names(self) -> list[str]:
        """Give the names of all numbers, each once, in the order in which they came."""
        return list(self._columns)

    def table(self) -> Tensor:
        """Give sums and counts as ``[2, names]``, in the order of `names`."""
        return self._table

    def restore(self, names: list[str], table: Tensor) -> None:
        """Go on from what `names` and `table` gave."""
        self._columns = {name: column for column, name in enumerate(names)}
        self._table, self._indices = table.to(self.device), {}

    def clear(self) -> None:
        """Begin anew."""
        self._columns, self._table, self._indices = {}, self._table.new_zeros(2, 0), {}


def means_of(names: list[str], tables: Tensor) -> dict[str, float]:
    """Combine the tables of all processes, ``[processes, 2, names]``: the mean of each process's mean counts the same.

    Returns:
        What was finite at least once.
    """
    sums, counts = tables.double().unbind(1)
    has_any = counts > 0
    means = torch.where(has_any, sums / counts.clamp(min=1), 0.0).sum(0) / has_any.sum(0).clamp(min=1)
    return {
        name: mean
        for name, mean, known in zip(names, means.tolist(), has_any.any(0).tolist(), strict=True)
        if known and math.isfinite(mean)  # sums of finite numbers may be too large
    }
