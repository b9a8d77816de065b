"""Batch norm, plain or steered by labels."""

from jaxtyping import Float
from torch import Tensor, nn

from fagan_hf.layers.conditional_norm import ConditionalNorm, normalize


class ConditionalBatchNorm(ConditionalNorm):
    """Batch norm whose scale and shift depend on labels, see `ConditionalNorm`.

    Args:
        channels: Channels that come in and go out.
        num_labels: Width of the label vectors.
    """

    def __init__(self, channels: int, num_labels: int):
        super().__init__(nn.BatchNorm2d(channels), channels, num_labels)


def build_batch_norm(channels: int, is_normalized: bool, num_labels: int) -> nn.Module:
    """Make the batch norm of a layer: none, a plain one, or one that takes labels."""
    if not is_normalized:
        return nn.Identity()
    return ConditionalBatchNorm(channels, num_labels) if num_labels else nn.BatchNorm2d(channels)


class BatchNorm(nn.Module):
    """Batch norm as a layer of its own.

    Args:
        in_channels: Channels that come in and go out.
        num_labels: Width of the label vectors that steer it; 0 for a plain one.
    """

    def __init__(self, in_channels: int, *, num_labels: int = 0):
        super().__init__()
        self.batch_norm = build_batch_norm(in_channels, True, num_labels)

    def forward(
        self,
        feature_map: Float[Tensor, "batch in_channels height width"],
        labels: Float[Tensor, "batch num_labels"] | None = None,
    ) -> Float[Tensor, "batch in_channels height width"]:
        """Give the normalized feature map."""
        return normalize(self.batch_norm, feature_map, labels)
