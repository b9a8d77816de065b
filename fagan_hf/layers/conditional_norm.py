"""Any norm, conditioned on labels."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ConditionalNorm(nn.Module):
    """A norm whose scale and shift depend on labels: ``norm(x) * (1 + scale(labels)) + shift(labels)``.

    Both maps are linear in the labels and start at 0, so the layer begins as the plain norm. Several labels may be
    active at once, with any values between 0 and 1.

    Args:
        norm: Maps ``[batch, channels, height, width]`` to the same shape.
        channels: Input and output channels.
        num_labels: Width of the label vectors.

    Attributes:
        norm: The plain norm.
        scale, shift: What each label adds, per channel.

    Reference:
        Dumoulin et al., arXiv:1610.07629; de Vries et al., arXiv:1707.00683; in GANs Miyato and Koyama,
        arXiv:1802.05637.
    """

    def __init__(self, norm: nn.Module, channels: int, num_labels: int):
        super().__init__()
        self.norm = norm
        self.scale = nn.Linear(num_labels, channels, bias=False)
        self.shift = nn.Linear(num_labels, channels, bias=False)
        nn.init.zeros_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(
        self,
        feature_map: Float[Tensor, "batch channels height width"],
        labels: Float[Tensor, "batch num_labels"] | None = None,
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the normalized feature map.

        Raises:
            ValueError: The labels are missing.
        """
        if labels is None:
            raise ValueError(f"labels are missing; they must be [{len(feature_map)}, {self.scale.in_features}]")
        labels = labels.to(feature_map)
        scale, shift = self.scale(labels)[..., None, None], self.shift(labels)[..., None, None]
        normalized = self.norm(feature_map)
        return torch.addcmul(normalized + shift, normalized, scale)


def apply_norm(norm: nn.Module, feature_map: Tensor, labels: Tensor | None) -> Tensor:
    """Apply a norm with the labels if it takes them."""
    return norm(feature_map, labels) if isinstance(norm, ConditionalNorm) else norm(feature_map)
