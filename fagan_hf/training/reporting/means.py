"""Means of the metrics of training steps, accumulated on the device: no synchronization until a line is written."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional


class Means:
    """Sums of metrics by name since the last line; values that are not finite are left out.

    Args:
        device: Device of the values.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._columns: dict[str, int] = {}
        self._table = torch.zeros(2, 0, device=device)  # sums and counts, by column
        self._indices: dict[tuple[str, ...], Tensor] = {}  # names added together -> their columns

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
        # In order of arrival, whether or not the run was resumed in between: rounding stays the same.
        self._table = self._table.index_add(1, self._indices[names], rows)

    def names(self) -> list[str]:
        """Return the distinct names of all metrics, in order of arrival."""
        return list(self._columns)

    def table(self) -> Tensor:
        """Return sums and counts as ``[2, names]``, in the order of `names`."""
        return self._table

    def restore(self, names: list[str], table: Tensor) -> None:
        """Restore the state from what `names` and `table` returned."""
        self._columns = {name: column for column, name in enumerate(names)}
        self._table, self._indices = table.to(self.device), {}

    def clear(self) -> None:
        """Reset all sums and counts."""
        self._columns, self._table, self._indices = {}, self._table.new_zeros(2, 0), {}


def means_of(names: list[str], tables: Tensor) -> dict[str, float]:
    """Combine the tables of all processes, ``[processes, 2, names]``: each process's mean has the same weight.

    Returns:
        The means of all metrics that were finite at least once.
    """
    sums, counts = tables.cpu().double().unbind(1)  # Apple's GPUs have no doubles
    has_any = counts > 0
    means = torch.where(has_any, sums / counts.clamp(min=1), 0.0).sum(0) / has_any.sum(0).clamp(min=1)
    return {
        name: mean
        for name, mean, known in zip(names, means.tolist(), has_any.any(0).tolist(), strict=True)
        if known and math.isfinite(mean)  # sums of finite values may overflow
    }
