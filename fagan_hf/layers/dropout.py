"""Dropout of whole channels."""

from jaxtyping import Float
from torch import Tensor, nn


class Dropout(nn.Module):
    """Set channels to zero at random while training, and scale the others up to keep the mean.

    Args:
        probability: Of a channel to be dropped, from 0 to 1.
    """

    def __init__(self, *, probability: float):
        super().__init__()
        self.dropout = nn.Dropout2d(probability)

    def forward(
        self, feature_map: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Give the feature map with what is left of it."""
        return self.dropout(feature_map)
