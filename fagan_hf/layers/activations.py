"""Activations by name, as written in a config."""

from jaxtyping import Float
from torch import Tensor, nn

from fagan_hf.architectures.specs import parse_activation

_MODULES = {
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
}


# Activations whose derivative can be computed from the output, so the input need not be kept.
_IN_PLACE = {"relu", "leaky_relu"}


def build_activation(text: str, *, may_overwrite: bool = False) -> nn.Module:
    """Build an activation by its name in a config, such as ``"leaky_relu(0.2)"`` or ``"tanh"``.

    Args:
        text: Its name.
        may_overwrite: Whether the input is used by nothing else, including backward passes, so that the output may
            overwrite it.

    Raises:
        ValueError: The name is unknown, or its number is missing, not allowed or not a number.
    """
    name, number = parse_activation(text)
    arguments = [] if number is None else [number]
    # With a negative slope two inputs give the same output.
    is_in_place = may_overwrite and name in _IN_PLACE and (number is None or number > 0)
    return _MODULES[name](*arguments, **{"inplace": True} if is_in_place else {})


class Activation(nn.Module):
    """An activation as a separate layer.

    Args:
        activation: A name such as ``"leaky_relu(0.2)"``.
    """

    def __init__(self, *, activation: str):
        super().__init__()
        self.activation = build_activation(activation)

    def forward(
        self, feature_map: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the activated feature map."""
        return self.activation(feature_map)
