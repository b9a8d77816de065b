"""Settings of the speed benchmarks."""

from dataclasses import dataclass

import torch

from fagan_hf.training.recipe import Precision
from fagan_hf.training.step.precision import best_precision


@dataclass(frozen=True)
class Settings:
    """Settings from the command line.

    Attributes:
        rounds: Number of timings of each function.
        is_quick: Skip the longest parts?
        threads: Of this process, and of those whose memory is measured.
        device: ``"cpu"`` or ``"cuda"``.
    """

    rounds: int
    is_quick: bool = False
    threads: int = 2
    device: str = "cpu"

    def precisions(self) -> list[Precision]:
        """List the values of Accelerate's ``mixed_precision`` that the hardware supports."""
        return ["no", "bf16"] if has_bf16(self.device) else ["no"]


NO_BF16 = "not measured: this processor has no bf16 instructions"


def has_bf16(device: str) -> bool:
    """Return whether the hardware supports bfloat16 natively, without emulation."""
    return best_precision(torch.device(device)) == "bf16"


def name_of(precision: str) -> str:
    """Return the name of a ``mixed_precision`` in the tables."""
    return "fp32" if precision == "no" else precision
