"""Activations by name, as they stand in a config."""

from torch import nn

from fagan_hf.configs import parse_activation

_MODULES = {
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
}


def build_activation(text: str) -> nn.Module:
    """Make the activation that a config names, such as ``"leaky_relu(0.2)"`` or ``"tanh"``.

    Raises:
        ValueError: The name is unknown, or its number is missing, unwanted or no number.
    """
    name, number = parse_activation(text)
    return _MODULES[name]() if number is None else _MODULES[name](number)
