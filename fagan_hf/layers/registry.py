"""Registry of the layer class for each spec; custom layers can be added."""

import dataclasses
import sys
from typing import Any

from torch import nn

from fagan_hf.architectures.specs import LAYER_SPECS, LayerSpec
from fagan_hf.layers.activations import Activation
from fagan_hf.layers.attention import FullAttention, SelfAttention
from fagan_hf.layers.batch_norm import BatchNorm
from fagan_hf.layers.block import ConvBlock, FullAttentionBlock
from fagan_hf.layers.conv import Conv, ConvTranspose
from fagan_hf.layers.dropout import Dropout
from fagan_hf.layers.rms_norm import RMSNorm

LAYERS: dict[str, type[nn.Module]] = {
    "conv": Conv,
    "conv_transpose": ConvTranspose,
    "full_attention": FullAttention,
    "conv_block": ConvBlock,
    "full_attention_block": FullAttentionBlock,
    "self_attention": SelfAttention,
    "batch_norm": BatchNorm,
    "rms_norm": RMSNorm,
    "activation": Activation,
    "dropout": Dropout,
}


def build_layer(spec: LayerSpec) -> nn.Module:
    """Build the layer that a spec describes."""
    return LAYERS[spec.type](**spec.arguments())


def _definition(spec_class: type) -> tuple[str, str]:
    """Return where a class is defined: its file, or module if it has none, and its name."""
    module = sys.modules.get(spec_class.__module__)
    return getattr(module, "__file__", None) or spec_class.__module__, spec_class.__qualname__


def register_layer(spec_class: type[LayerSpec], layer_class: type[nn.Module]) -> None:
    """Register a custom layer under its spec's `type`, for configs in Python and in JSON.

    If the same definition is registered again, by rerunning a notebook cell or importing a file twice, it replaces the
    older one.

    Args:
        spec_class: A frozen dataclass derived from `LayerSpec` (``@dataclass(frozen=True, kw_only=True)``) with a
            unique `type`. Its fields are the layer's keyword arguments.
        layer_class: The layer built from it. Its forward takes the feature map ``[B, C, H, W]``, and the labels
            ``[B, num_labels]`` as a second argument if the spec has a field `num_labels` above 0.

    Raises:
        ValueError: ``spec_class`` is not such a dataclass, or another layer already has its `type`.
    """
    name: Any = getattr(spec_class, "type", None)
    params: Any = getattr(spec_class, "__dataclass_params__", None)
    is_spec = isinstance(spec_class, type) and issubclass(spec_class, LayerSpec) and spec_class is not LayerSpec
    if not is_spec or "__dataclass_params__" not in vars(spec_class) or not params.frozen or not isinstance(name, str):
        raise ValueError(
            f"spec_class is {spec_class!r}; it must be a class derived from LayerSpec, decorated with "
            "@dataclass(frozen=True, kw_only=True), with type: ClassVar[str] = '...'"
        )
    if name in LAYER_SPECS and _definition(LAYER_SPECS[name]) != _definition(spec_class):
        raise ValueError(f"type {name!r} of {spec_class.__name__} is taken by {LAYER_SPECS[name].__name__}; rename it")
    without_default = [f.name for f in dataclasses.fields(spec_class) if not f.kw_only]
    if without_default:
        raise ValueError(f"{spec_class.__name__} must be kw_only: {', '.join(without_default)} are not")
    LAYER_SPECS[name], LAYERS[name] = spec_class, layer_class
