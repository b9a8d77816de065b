"""Inspect a model's attention: where it looks, how much it contributes, and pictures of it."""

from typing import TYPE_CHECKING

from fagan_hf.utils.on_demand import on_demand

if TYPE_CHECKING:
    from fagan_hf.attention_maps.capture import CapturedAttention, capture_attention
    from fagan_hf.attention_maps.gate_history import GateHistory, read_gates
    from fagan_hf.attention_maps.kernels import KernelReport
    from fagan_hf.attention_maps.observe import ObservedAttention, observe_attention
    from fagan_hf.attention_maps.pictures import alpha_strip, attention_picture
    from fagan_hf.attention_maps.positions import check_positions, position_on_map
    from fagan_hf.attention_maps.report import LayerReport, inspect_layers
    from fagan_hf.attention_maps.statistics import AttentionStatistics, attention_statistics, uniform_distance

__all__ = [
    "AttentionStatistics",
    "CapturedAttention",
    "GateHistory",
    "KernelReport",
    "LayerReport",
    "ObservedAttention",
    "alpha_strip",
    "attention_picture",
    "attention_statistics",
    "capture_attention",
    "check_positions",
    "inspect_layers",
    "observe_attention",
    "position_on_map",
    "read_gates",
    "uniform_distance",
]

__getattr__ = on_demand(
    __name__,
    {
        "capture": ["CapturedAttention", "capture_attention"],
        "statistics": ["AttentionStatistics", "attention_statistics", "uniform_distance"],
        "report": ["LayerReport", "inspect_layers"],
        "kernels": ["KernelReport"],
        "gate_history": ["GateHistory", "read_gates"],
        "observe": ["ObservedAttention", "observe_attention"],
        "positions": ["check_positions", "position_on_map"],
        "pictures": ["alpha_strip", "attention_picture"],
    },
)
