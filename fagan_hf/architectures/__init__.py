"""Architectures as data: layer specs, network configs, presets and custom files. Does not import torch."""

from typing import TYPE_CHECKING

from fagan_hf.utils.on_demand import on_demand

if TYPE_CHECKING:
    from fagan_hf.architectures.conditioning import with_labels
    from fagan_hf.architectures.configs import Architecture, DiscriminatorConfig, GeneratorConfig
    from fagan_hf.architectures.load import load_architecture, save_architecture
    from fagan_hf.architectures.presets import PRESETS
    from fagan_hf.architectures.specs import (
        ActivationSpec,
        BatchNormSpec,
        ConvBlockSpec,
        ConvSpec,
        ConvTransposeSpec,
        DropoutSpec,
        FullAttentionBlockSpec,
        FullAttentionSpec,
        LayerSpec,
        RMSNormSpec,
        SelfAttentionSpec,
    )

__all__ = [
    "PRESETS",
    "ActivationSpec",
    "Architecture",
    "BatchNormSpec",
    "ConvBlockSpec",
    "ConvSpec",
    "ConvTransposeSpec",
    "DiscriminatorConfig",
    "DropoutSpec",
    "FullAttentionBlockSpec",
    "FullAttentionSpec",
    "GeneratorConfig",
    "LayerSpec",
    "RMSNormSpec",
    "SelfAttentionSpec",
    "load_architecture",
    "save_architecture",
    "with_labels",
]

__getattr__ = on_demand(
    __name__,
    {
        "configs": ["Architecture", "DiscriminatorConfig", "GeneratorConfig"],
        "presets": ["PRESETS"],
        "load": ["load_architecture", "save_architecture"],
        "conditioning": ["with_labels"],
        "specs": [
            "ActivationSpec",
            "BatchNormSpec",
            "ConvBlockSpec",
            "ConvSpec",
            "ConvTransposeSpec",
            "DropoutSpec",
            "FullAttentionBlockSpec",
            "FullAttentionSpec",
            "LayerSpec",
            "RMSNormSpec",
            "SelfAttentionSpec",
        ],
    },
)
