"""RMS norm over channels, plain or conditioned on labels."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fagan_hf.architectures.specs import RMSNormSpec, check_arguments
from fagan_hf.layers.conditional_norm import ConditionalNorm, apply_norm

_EPSILON = 1e-6


class ChannelRMSNorm(nn.RMSNorm):
    """Divide each position's channels by their root mean square, and scale them: ``weight * x / rms(x)``.

    The result depends only on the image itself, in training as in evaluation: there are no running statistics, and no
    exchange between images or processes.

    Args:
        channels: Input and output channels.

    Attributes:
        weight: The scale of each channel, initially 1.

    Reference:
        Zhang and Sennrich, arXiv:1910.07467; without a scale the pixel norm of Karras et al., arXiv:1710.10196.
    """

    def __init__(self, channels: int):
        super().__init__(channels, eps=_EPSILON)

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the normalized feature map."""
        # Under autocast the weight is in single precision, and so is the norm: on CUDA by itself, on a CPU only if the
        # input is, too. Every following convolution would cast the result again.
        wide = x.to(torch.promote_types(x.dtype, self.weight.dtype))
        return super().forward(wide.movedim(1, -1)).movedim(-1, 1).to(x.dtype)


def build_rms_norm(channels: int, num_labels: int) -> nn.Module:
    """Build an RMS norm, plain or conditional."""
    norm = ChannelRMSNorm(channels)
    return ConditionalNorm(norm, channels, num_labels) if num_labels else norm


class RMSNorm(nn.Module):
    """RMS norm as a separate layer.

    Args:
        in_channels: Input and output channels.
        num_labels: Width of the label vectors that condition it; 0 for a plain one.

    Raises:
        ValueError: An argument is not allowed; the rules and messages are those of its spec.
    """

    def __init__(self, in_channels: int, *, num_labels: int = 0):
        check_arguments(RMSNormSpec, locals())
        super().__init__()
        self.norm = build_rms_norm(in_channels, num_labels)

    def forward(
        self,
        feature_map: Float[Tensor, "batch in_channels height width"],
        labels: Float[Tensor, "batch num_labels"] | None = None,
    ) -> Float[Tensor, "batch in_channels height width"]:
        """Return the normalized feature map."""
        return apply_norm(self.norm, feature_map, labels)
