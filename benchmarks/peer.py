"""The original, attn-gan-pytorch 1.2.3, for comparison: its layers built from our specs, its weights copied to ours."""

from types import SimpleNamespace
from typing import Any

import torch
import yaml
from attn_gan_pytorch import CustomLayers, Utils
from torch import nn

from fagan_hf.architectures.specs import (
    BatchNormSpec,
    ConvSpec,
    DropoutSpec,
    FullAttentionSpec,
    LayerSpec,
    SelfAttentionSpec,
)
from fagan_hf.layers import SpectralNorm


def peer_modules(conf: str) -> list[nn.Module]:
    """Build the layers of a ``.conf`` with the original's own reader."""
    return [Utils.get_layer(SimpleNamespace(**layer)) for layer in yaml.safe_load(conf)["architecture"]]


def peer_layer(spec: LayerSpec) -> nn.Module:
    """Build the original's layer for a spec."""
    if isinstance(spec, BatchNormSpec):
        return nn.BatchNorm2d(spec.in_channels)
    if isinstance(spec, DropoutSpec):
        return nn.Dropout2d(p=spec.probability)
    if isinstance(spec, SelfAttentionSpec):
        activation = None if spec.activation == "identity" else peer_activation(spec.activation)
        layer = CustomLayers.SelfAttention(spec.in_channels, activation, spec.squeeze_factor, spec.bias)
        return nn.Sequential(layer, CustomLayers.IgnoreAttentionMap())
    if isinstance(spec, FullAttentionSpec):
        layer = CustomLayers.FullAttention(
            spec.in_channels,
            spec.out_channels,
            peer_activation(spec.activation),
            (spec.kernel_size,) * 2,
            spec.transposed,
            spec.spectral_norm,
            spec.batch_norm,
            spec.squeeze_factor,
            spec.stride,
            spec.padding,
            bias=spec.bias,
        )
        return nn.Sequential(layer, CustomLayers.IgnoreAttentionMap())
    assert isinstance(spec, ConvSpec)
    conv_class = nn.ConvTranspose2d if spec.is_transposed else nn.Conv2d
    conv = conv_class(spec.in_channels, spec.out_channels, spec.kernel_size, spec.stride, spec.padding, bias=spec.bias)
    conv = CustomLayers.SpectralNorm(conv) if spec.spectral_norm else conv
    norm = [nn.BatchNorm2d(spec.out_channels)] if spec.batch_norm else []
    return nn.Sequential(conv, *norm, peer_activation(spec.activation))


def peer_activation(text: str) -> nn.Module:
    """Build an activation as the original's `get_act_fn` does; its identity is a leaky ReLU of slope 1."""
    if text in ("relu", "tanh", "sigmoid"):
        return {"relu": nn.ReLU(), "tanh": nn.Tanh(), "sigmoid": nn.Sigmoid()}[text]
    return nn.LeakyReLU(1.0 if text == "identity" else float(text.removeprefix("leaky_relu(").removesuffix(")")))


def paired_parameters(theirs: nn.Module, ours: nn.Module) -> list[tuple[nn.Parameter, nn.Parameter]]:
    """Match trained parameters, module by module in order of creation."""
    pairs = []
    for their_conv, our_conv in zip(_convs(theirs), _convs(ours), strict=True):
        if hasattr(their_conv, "weight_bar"):
            pairs.append((their_conv.weight_bar, our_conv.parametrizations["weight"].original))
        else:
            pairs.append((their_conv.weight, our_conv.weight))
        if their_conv.bias is not None:
            pairs.append((their_conv.bias, our_conv.bias))
    for their_norm, our_norm in _paired_norms(theirs, ours):
        pairs += [(their_norm.weight, our_norm.weight), (their_norm.bias, our_norm.bias)]
    their_gates = [module.gamma for module in theirs.modules() if hasattr(module, "gamma")]
    our_gates = [getattr(m, name) for m in ours.modules() for name in ("alpha", "gamma") if hasattr(m, name)]
    return pairs + list(zip(their_gates, our_gates, strict=True))


@torch.no_grad()
def copy_weights(theirs: nn.Module, ours: nn.Module) -> None:
    """Copy parameters, statistics and singular vectors."""
    for their_parameter, our_parameter in paired_parameters(theirs, ours):
        our_parameter.copy_(their_parameter.view_as(our_parameter))
    for their_norm, our_norm in _paired_norms(theirs, ours):
        our_norm.load_state_dict(their_norm.state_dict())
    for their_conv, our_conv in zip(_convs(theirs), _convs(ours), strict=True):
        if hasattr(their_conv, "weight_bar"):
            norm = our_conv.parametrizations["weight"][0]
            assert isinstance(norm, SpectralNorm)
            norm.u.copy_(their_conv.weight_u)
            norm.v.copy_(their_conv.weight_v)


def _paired_norms(theirs: nn.Module, ours: nn.Module) -> list[tuple[nn.BatchNorm2d, nn.BatchNorm2d]]:
    """Match batch norms; the original makes one in every full attention layer, ours only where it is used."""
    unused = {
        module.batch_norm
        for module in theirs.modules()
        if isinstance(module, CustomLayers.FullAttention) and not module.use_batch_norm
    }
    used, own = (
        [module for module in network.modules() if isinstance(module, nn.BatchNorm2d) and module not in unused]
        for network in (theirs, ours)
    )
    return list(zip(used, own, strict=True))


def _convs(network: nn.Module) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]


@torch.no_grad()
def wake(network: nn.Module) -> nn.Module:
    """Set the original's gates and statistics to values as after training, so that every branch contributes."""
    modules: list[Any] = list(network.modules())
    for module in modules:
        if hasattr(module, "gamma"):
            module.gamma.uniform_(-0.8, 0.8)
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_()
    return network
