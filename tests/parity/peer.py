"""The original, attn-gan-pytorch 1.2.3, beside ours: its layers built from our specs, its weights copied across."""

from types import SimpleNamespace

import torch
import yaml
from attn_gan_pytorch import CustomLayers, Utils
from torch import nn

from fagan_hf.configs import BatchNormSpec, ConvSpec, DropoutSpec, FullAttentionSpec, LayerSpec, SelfAttentionSpec
from fagan_hf.layers import SpectralNorm


def peer_modules(conf: str) -> list[nn.Module]:
    """Build the layers of a ``.conf`` with the original's own reader."""
    return [Utils.get_layer(SimpleNamespace(**layer)) for layer in yaml.safe_load(conf)["architecture"]]


def peer_layer(spec: LayerSpec) -> nn.Module:
    """Build the original's layer that a spec describes."""
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


@torch.no_grad()
def copy_weights(theirs: nn.Module, ours: nn.Module) -> None:
    """Copy weights, statistics, gates and singular vectors, module by module in the order they were made."""
    for their_conv, our_conv in zip(_convs(theirs), _convs(ours), strict=True):
        if hasattr(their_conv, "weight_bar"):
            parametrizations = our_conv.parametrizations["weight"]
            parametrizations.original.copy_(their_conv.weight_bar)
            norm = parametrizations[0]
            assert isinstance(norm, SpectralNorm)
            norm.u.copy_(their_conv.weight_u)
            norm.v.copy_(their_conv.weight_v)
        else:
            our_conv.weight.copy_(their_conv.weight)
        if their_conv.bias is not None:
            our_conv.bias.copy_(their_conv.bias)
    # The original makes a batch norm in every full attention, wanted or not: its unwanted ones have no place in ours.
    wanted = [module for module in _norms(theirs) if getattr(module, "is_used", True)]
    for their_norm, our_norm in zip(wanted, _norms(ours), strict=True):
        our_norm.load_state_dict(their_norm.state_dict())
    their_gates = [module.gamma for module in theirs.modules() if hasattr(module, "gamma")]
    our_gates = [getattr(m, name) for m in ours.modules() for name in ("alpha", "gamma") if hasattr(m, name)]
    for their_gate, our_gate in zip(their_gates, our_gates, strict=True):
        our_gate.copy_(their_gate.squeeze())


def _convs(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]


def _norms(network: nn.Module) -> list[nn.Module]:
    for module in network.modules():
        if isinstance(module, CustomLayers.FullAttention) and not module.use_batch_norm:
            module.batch_norm.is_used = False
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


@torch.no_grad()
def wake(network: nn.Module) -> nn.Module:
    """Give the original's gates and statistics values that a training could, so that no branch is silent."""
    for module in network.modules():
        if hasattr(module, "gamma"):
            module.gamma.uniform_(-0.8, 0.8)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_()
    return network
