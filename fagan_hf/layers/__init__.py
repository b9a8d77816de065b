"""The layers of the networks; each also works on its own in any `nn.Sequential`."""

from fagan_hf.layers.activations import Activation, build_activation
from fagan_hf.layers.attention import AttentionLayer, FullAttention, SelfAttention
from fagan_hf.layers.batch_norm import BatchNorm, ConditionalBatchNorm
from fagan_hf.layers.block import ConvBlock, FullAttentionBlock
from fagan_hf.layers.conditional_norm import ConditionalNorm
from fagan_hf.layers.conv import Conv, ConvTranspose
from fagan_hf.layers.dropout import Dropout
from fagan_hf.layers.functional import (
    attention,
    attention_kernel,
    attention_weights,
    choose_kernel,
    twice_differentiable,
)
from fagan_hf.layers.gates import gates, override_alpha
from fagan_hf.layers.registry import LAYERS, build_layer, register_layer
from fagan_hf.layers.rms_norm import ChannelRMSNorm, RMSNorm
from fagan_hf.layers.spectral_norm import (
    SpectralNorm,
    hold_spectral_norms,
    refresh_spectral_norms,
    spectral_norm,
    spectral_norms,
)

__all__ = [
    "LAYERS",
    "Activation",
    "AttentionLayer",
    "BatchNorm",
    "ChannelRMSNorm",
    "ConditionalBatchNorm",
    "ConditionalNorm",
    "Conv",
    "ConvBlock",
    "ConvTranspose",
    "Dropout",
    "FullAttention",
    "FullAttentionBlock",
    "RMSNorm",
    "SelfAttention",
    "SpectralNorm",
    "attention",
    "attention_kernel",
    "attention_weights",
    "build_activation",
    "build_layer",
    "choose_kernel",
    "gates",
    "hold_spectral_norms",
    "override_alpha",
    "refresh_spectral_norms",
    "register_layer",
    "spectral_norm",
    "spectral_norms",
    "twice_differentiable",
]
