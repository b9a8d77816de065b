"""Batch norm, plain or conditioned on labels."""

from jaxtyping import Float
from torch import Tensor, nn

from fagan_hf.architectures.specs import BatchNormSpec, check_arguments
from fagan_hf.layers.conditional_norm import ConditionalNorm, apply_norm


class ConditionalBatchNorm(ConditionalNorm):
    """Batch norm whose scale and shift depend on labels, see `ConditionalNorm`.

    Args:
        channels: Input and output channels.
        num_labels: Width of the label vectors.
    """

    def __init__(self, channels: int, num_labels: int):
        super().__init__(nn.BatchNorm2d(channels), channels, num_labels)


def build_batch_norm(channels: int, is_normalized: bool, num_labels: int) -> nn.Module:
    """Build the batch norm of a layer: none, a plain one, or a conditional one."""
    if not is_normalized:
        return nn.Identity()
    return ConditionalBatchNorm(channels, num_labels) if num_labels else nn.BatchNorm2d(channels)


class BatchNorm(nn.Module):
    """Batch norm as a separate layer.

    Args:
        in_channels: Input and output channels.
        num_labels: Width of the label vectors that condition it; 0 for a plain one.

    Raises:
        ValueError: An argument is not allowed; the rules and messages are those of its spec.
    """

    def __init__(self, in_channels: int, *, num_labels: int = 0):
        check_arguments(BatchNormSpec, locals())
        super().__init__()
        self.batch_norm = build_batch_norm(in_channels, True, num_labels)

    def forward(
        self,
        feature_map: Float[Tensor, "batch in_channels height width"],
        labels: Float[Tensor, "batch num_labels"] | None = None,
    ) -> Float[Tensor, "batch in_channels height width"]:
        """Return the normalized feature map."""
        return apply_norm(self.batch_norm, feature_map, labels)
