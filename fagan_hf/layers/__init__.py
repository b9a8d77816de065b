"""The layers that networks are made of, each usable on its own in anyone's `nn.Sequential`."""

from torch import nn

from fagan_hf.configs import LayerSpec
from fagan_hf.layers.activations import build_activation
from fagan_hf.layers.attention import FullAttention, SelfAttention
from fagan_hf.layers.conv import Conv, ConvTranspose
from fagan_hf.layers.functional import attention
from fagan_hf.layers.gates import gates
from fagan_hf.layers.spectral_norm import SpectralNorm, refresh_spectral_norms, spectral_norm

LAYERS: dict[str, type[nn.Module]] = {
    "conv": Conv,
    "conv_transpose": ConvTranspose,
    "full_attention": FullAttention,
    "self_attention": SelfAttention,
}


def build_layer(spec: LayerSpec) -> nn.Module:
    """Make the layer that a spec describes."""
    return LAYERS[spec.type](**spec.arguments())


__all__ = [
    "Conv",
    "ConvTranspose",
    "FullAttention",
    "SelfAttention",
    "SpectralNorm",
    "attention",
    "build_activation",
    "build_layer",
    "gates",
    "refresh_spectral_norms",
    "spectral_norm",
]
