"""Dropout of whole channels."""

from jaxtyping import Float
from torch import Tensor, nn

from fagan_hf.architectures.specs import DropoutSpec, check_arguments


class Dropout(nn.Module):
    """Zero channels at random during training, and scale up the others to keep the mean.

    Args:
        probability: Probability of dropping a channel, from 0 to 1.

    Raises:
        ValueError: An argument is not allowed; the rules and messages are those of its spec.
    """

    def __init__(self, *, probability: float):
        check_arguments(DropoutSpec, locals())
        super().__init__()
        self.dropout = nn.Dropout2d(probability)

    def forward(
        self, feature_map: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the feature map with some channels dropped."""
        return self.dropout(feature_map)
