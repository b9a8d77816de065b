"""Activations by name, as they stand in a config."""

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


# Those whose derivative follows from what they give, so that nobody misses what came in.
_IN_PLACE = {"relu", "leaky_relu"}


def build_activation(text: str, *, may_overwrite: bool = False) -> nn.Module:
    """Make the activation that a config names, such as ``"leaky_relu(0.2)"`` or ``"tanh"``.

    Args:
        text: Its name.
        may_overwrite: Will nobody else, a backward pass least of all, look at what comes in? Then what goes out may
            take its memory.

    Raises:
        ValueError: The name is unknown, or its number is missing, unwanted or no number.
    """
    name, number = parse_activation(text)
    arguments = [] if number is None else [number]
    # With a negative slope two inputs give the same output.
    is_in_place = may_overwrite and name in _IN_PLACE and (number is None or number > 0)
    return _MODULES[name](*arguments, **{"inplace": True} if is_in_place else {})


class Activation(nn.Module):
    """An activation as a layer of its own.

    Args:
        activation: A name such as ``"leaky_relu(0.2)"``.
    """

    def __init__(self, *, activation: str):
        super().__init__()
        self.activation = build_activation(activation)

    def forward(
        self, feature_map: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Give the activated feature map."""
        return self.activation(feature_map)
