"""Batch norm, plain or steered by labels."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ConditionalBatchNorm(nn.Module):
    """Batch norm whose scale and shift depend on labels: ``norm(x) * (1 + scale(labels)) + shift(labels)``.

    Both maps are linear in the labels and start at 0, so the layer begins as a plain batch norm. Labels may be several
    at once, and anything between 0 and 1.

    Args:
        channels: Channels that come in and go out.
        num_labels: Width of the label vectors.

    Attributes:
        norm: The plain batch norm.
        scale, shift: What each label adds, per channel.

    Reference:
        Dumoulin et al., arXiv:1610.07629; de Vries et al., arXiv:1707.00683; in GANs Miyato and Koyama,
        arXiv:1802.05637.
    """

    def __init__(self, channels: int, num_labels: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.scale = nn.Linear(num_labels, channels, bias=False)
        self.shift = nn.Linear(num_labels, channels, bias=False)
        nn.init.zeros_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(
        self,
        feature_map: Float[Tensor, "batch channels height width"],
        labels: Float[Tensor, "batch num_labels"] | None = None,
    ) -> Float[Tensor, "batch channels height width"]:
        """Give the normalised feature map.

        Raises:
            ValueError: The labels are missing.
        """
        if labels is None:
            raise ValueError(f"labels are missing; they must be [{len(feature_map)}, {self.scale.in_features}]")
        labels = labels.to(feature_map)
        scale, shift = self.scale(labels)[..., None, None], self.shift(labels)[..., None, None]
        normalised = self.norm(feature_map)
        return torch.addcmul(normalised + shift, normalised, scale)


def build_batch_norm(channels: int, is_normalised: bool, num_labels: int) -> nn.Module:
    """Make the batch norm of a layer: none, a plain one, or one that takes labels."""
    if not is_normalised:
        return nn.Identity()
    return ConditionalBatchNorm(channels, num_labels) if num_labels else nn.BatchNorm2d(channels)


def normalise(batch_norm: nn.Module, feature_map: Tensor, labels: Tensor | None) -> Tensor:
    """Apply what `build_batch_norm` made."""
    return batch_norm(feature_map, labels) if isinstance(batch_norm, ConditionalBatchNorm) else batch_norm(feature_map)


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
        """Give the normalised feature map."""
        return normalise(self.batch_norm, feature_map, labels)
