"""A layer to train controls with: full attention with other weights, or with a gate that stays where it begins.

It is registered by importing this module: `--import benchmarks.alphas_of.control_layers`.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from benchmarks.alphas_of.controls import TRAINED_CONTROLS, WINDOW, attend_by, control_weights
from fagan_hf.architectures.specs import FullAttentionSpec
from fagan_hf.layers import FullAttention, register_layer

OWN = "own"


@dataclass(frozen=True, kw_only=True)
class ControlledAttentionSpec(FullAttentionSpec):
    """Full attention with a control's weights.

    Attributes:
        control: ``"own"``, or one of `TRAINED_CONTROLS`.
        is_gate_frozen: Whether the gate stays at ``initial_alpha``.
    """

    type: ClassVar[str] = "controlled_attention"
    control: str = OWN
    is_gate_frozen: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.control not in (OWN, *TRAINED_CONTROLS):
            raise ValueError(f"control is {self.control!r}; it must be {OWN} or one of {', '.join(TRAINED_CONTROLS)}")


class ControlledAttention(FullAttention):
    """Full attention with a control's weights; arguments are the fields of its spec."""

    def __init__(self, *, control: str = OWN, is_gate_frozen: bool = False, **options: Any):
        super().__init__(**options)
        self.control, self.is_gate_frozen = control, is_gate_frozen

    @property
    def gate(self) -> Tensor | float:
        """The gate; without a gradient if it is frozen."""
        gate = super().gate
        return gate.detach() if self.is_gate_frozen and isinstance(gate, Tensor) else gate

    def own_weights(self, query: Tensor, key: Tensor, queries: Tensor) -> Tensor:
        """Return the weights of full attention."""
        return super().weights(query, key, queries)

    def weights(self, query: Tensor, key: Tensor, queries: Tensor) -> Tensor:
        """Return the control's weights of some queries."""
        if self.control == OWN:
            return super().weights(query, key, queries)
        return control_weights(self.control, self, query, key, queries, window=WINDOW)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return the means of the values by the control's weights."""
        if self.control == OWN:
            return super().attend(query, key, value)
        shape = (query.shape[2], query.shape[3])
        return attend_by(self.weights(query, key, torch.arange(math.prod(shape), device=query.device)), value, shape)


register_layer(ControlledAttentionSpec, ControlledAttention)
