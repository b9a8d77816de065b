"""Both players' steps as one CUDA graph: thousands of small kernels with a single launch.

A GPU that trains a small network mostly waits for the CPU, which needs several microseconds to launch each kernel. A
graph contains the kernels of a whole step with their arguments: forward and backward passes, penalties, gradient norms
and optimizers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fagan_hf.training.step.steps import MicroBatch, Trainer

EAGER_STEPS = 3
"""Eager steps of each kind before the capture, in which libraries choose kernels and allocate memory."""


class GraphedSteps:
    """Takes the steps of a `Trainer`, capturing each kind (with and without penalties) once and then replaying it.

    A replay reads batch, learning rates, weights and moments from their memory at capture time. So batches are copied
    there, optimizers need their learning rate in a tensor (`capturable=True`), and code that replaces the moments by
    other tensors must call `forget`.

    Args:
        trainer: On a CUDA device, in one process, without gradient accumulation.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self._eager_steps: dict[bool, int] = {}
        self._captured: dict[bool, _Captured] = {}
        self._stream = torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle()

    def forget(self) -> None:
        """Drop the captured graphs, because the tensors that they use have been replaced."""
        self._captured.clear()
        self._eager_steps.clear()

    def step(
        self, for_discriminator: Sequence[MicroBatch], for_generator: Sequence[MicroBatch], step: int
    ) -> dict[str, Tensor]:
        """Train both players with one batch, as `Trainer.step` does.

        Args:
            for_discriminator: One micro-batch.
            for_generator: One micro-batch.
            step: Index of the step, from 0.

        Returns:
            The metrics of both steps. The tensors are overwritten by the next step of the same kind.
        """
        kind = self.trainer.regularization.is_due(step)
        batches = [*for_discriminator, *for_generator]
        if kind in self._captured:
            return self._captured[kind].replay(batches)
        done = self._eager_steps.get(kind, 0)
        if done < EAGER_STEPS:
            self._eager_steps[kind] = done + 1
            return self._eager(batches, step)
        self._captured[kind] = _Captured(self.trainer, batches, step, self._pool)
        return self._captured[kind].replay(batches)

    def _eager(self, batches: list[MicroBatch], step: int) -> dict[str, Tensor]:
        """Take a step in a separate stream, as in the capture."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            numbers = _take_step(self.trainer, batches, step)
        torch.cuda.current_stream().wait_stream(self._stream)
        return numbers


class _Captured:
    """The graph of one kind of step, with the memory that it reads its batch from."""

    def __init__(self, trainer: Trainer, batches: Sequence[MicroBatch], step: int, pool: Any):
        self._batches = _own(batches)
        self._inputs = list(_tensors(self._batches))
        self._graph = torch.cuda.CUDAGraph()
        # Other threads, such as the one that pins the next batch's memory, may continue meanwhile.
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self._numbers = _take_step(trainer, self._batches, step)

    def replay(self, batches: Sequence[MicroBatch]) -> dict[str, Tensor]:
        for mine, given in zip(self._inputs, _tensors(batches), strict=True):
            mine.copy_(given)
        self._graph.replay()
        return dict(self._numbers)


def _take_step(trainer: Trainer, batches: Sequence[MicroBatch], step: int) -> dict[str, Tensor]:
    for_discriminator, for_generator = batches
    return trainer.step([for_discriminator], [for_generator], step)


def _own(batches: Sequence[MicroBatch]) -> list[MicroBatch]:
    """Copy batches; tensors shared between them are shared between the copies as well."""
    copies: dict[int, Tensor] = {}

    def copy(value: Any) -> Any:
        if isinstance(value, Tensor):
            return copies.setdefault(id(value), value.clone())
        if is_dataclass(value) and not isinstance(value, type):
            return replace(value, **{field.name: copy(getattr(value, field.name)) for field in fields(value)})
        return value

    return [copy(batch) for batch in batches]


def _tensors(batches: Sequence[MicroBatch]) -> Iterator[Tensor]:
    """Yield the distinct tensors of batches, in the order of their fields."""
    seen: set[int] = set()

    def of(value: Any) -> Iterator[Tensor]:
        if isinstance(value, Tensor):
            if id(value) not in seen:
                seen.add(id(value))
                yield value
        elif is_dataclass(value):
            for field in fields(value):
                yield from of(getattr(value, field.name))

    for batch in batches:
        yield from of(batch)
