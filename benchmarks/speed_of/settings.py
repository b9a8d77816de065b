"""How the benchmarks are run."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Settings:
    """What the command line says.

    Attributes:
        rounds: How often each thing is timed, in turns.
        is_quick: Leave out what takes long?
        threads: Of this process, and of those whose memory is measured.
        device: ``"cpu"`` or ``"cuda"``.
    """

    rounds: int
    is_quick: bool = False
    threads: int = 2
    device: str = "cpu"

    def precisions(self) -> list[str]:
        """List the values of Accelerate's ``mixed_precision`` that there is hardware for."""
        return ["no", "bf16"] if has_bf16(self.device) else ["no"]


NO_BF16 = "not measured: this processor has no bf16 instructions"


def has_bf16(device: str) -> bool:
    """Say whether the hardware computes in bfloat16, and not torch in its stead."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return any(is_there for name, is_there in torch.cpu.get_capabilities().items() if "bf16" in name)


def name_of(precision: str) -> str:
    """Name a ``mixed_precision`` as the tables do."""
    return "fp32" if precision == "no" else precision
