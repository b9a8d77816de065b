"""Our specs written as the original's ``.conf``."""

from collections.abc import Iterable
from typing import Any

import yaml

from fagan_hf.architectures.specs import (
    BatchNormSpec,
    ConvSpec,
    DropoutSpec,
    FullAttentionSpec,
    LayerSpec,
    SelfAttentionSpec,
)

ATTENTION = (FullAttentionSpec, SelfAttentionSpec)


def conf_text(specs: Iterable[LayerSpec]) -> str:
    """Write layers as YAML, with ``ignore_attn_maps`` after each attention layer."""
    architecture = []
    for spec in specs:
        architecture.append(_entry(spec))
        if isinstance(spec, ATTENTION):
            architecture.append({"name": "ignore_attn_maps"})
    return yaml.safe_dump({"architecture": architecture}, sort_keys=False)


def _entry(spec: LayerSpec) -> dict[str, Any]:
    if isinstance(spec, BatchNormSpec):
        return {"name": spec.type, "num_channels": spec.in_channels}
    if isinstance(spec, DropoutSpec):
        return {"name": spec.type, "drop_prob": spec.probability}
    if isinstance(spec, SelfAttentionSpec):
        entry = {"channels": spec.in_channels, "bias": spec.bias, "squeeze_factor": spec.squeeze_factor}
        return {"name": spec.type} | entry | _activation(spec)
    assert isinstance(spec, ConvSpec)
    entry = {
        "name": spec.type,
        "channels": f"({spec.in_channels}, {spec.out_channels})",
        "kernel_dims": f"({spec.kernel_size}, {spec.kernel_size})",
        "stride": f"({spec.stride}, {spec.stride})",
        "padding": f"({spec.padding}, {spec.padding})",
        "bias": spec.bias,
    }
    if not isinstance(spec, FullAttentionSpec):
        return entry | {"batch_norm": spec.batch_norm, "spectral_norm": spec.spectral_norm} | _activation(spec)
    entry |= {"use_spectral_norm": spec.spectral_norm, "use_batch_norm": spec.batch_norm}
    return entry | {"squeeze_factor": spec.squeeze_factor, "transpose_conv": spec.transposed} | _activation(spec)


def _activation(spec: Any) -> dict[str, str]:
    if spec.activation == "identity":
        return {} if isinstance(spec, ATTENTION) else {"activation": "lrelu(1.0)"}
    return {"activation": spec.activation.replace("leaky_relu", "lrelu")}
