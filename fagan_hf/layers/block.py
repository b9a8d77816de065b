"""Residual blocks: a layer, and beside it what came in."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fagan_hf.architectures.specs import NORMS
from fagan_hf.layers.activations import build_activation
from fagan_hf.layers.attention import FullAttention
from fagan_hf.layers.batch_norm import build_batch_norm
from fagan_hf.layers.conditional_norm import normalize
from fagan_hf.layers.conv import Conv, normalized
from fagan_hf.layers.rms_norm import build_rms_norm

_KERNELS = {
    "none": {"kernel_size": 3, "padding": 1},
    "up": {"kernel_size": 3, "padding": 1, "upsample": True},
    "down": {"kernel_size": 4, "stride": 2, "padding": 1},
}


def _build_norm(name: str, channels: int, num_labels: int) -> nn.Module:
    assert name in NORMS, name
    if name == "rms":
        return build_rms_norm(channels, num_labels)
    return build_batch_norm(channels, name == "batch", num_labels)


class ConvBlock(nn.Module):
    """A feature map, and what a convolution adds to it: ``shortcut(x) + branch(activation(norm(x)))``.

    Where the block enlarges, both paths are doubled by nearest neighbor first, see `UpsamplingConv2d`. Where it
    shrinks, the branch takes steps of two pixels, and the shortcut means of 2x2.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out; where there are as many, nothing is between input and sum on the shortcut
            but the change of size.
        resample: ``"up"`` doubles height and width, ``"down"`` halves them, ``"none"`` keeps them.
        spectral_norm: Divide the weights of the convolution and of the shortcut by their spectral norms?
        norm: Of what comes in: ``"none"``, ``"batch"``, or ``"rms"``, each position's own, see `ChannelRMSNorm`.
        num_labels: Width of the label vectors that steer the norm; 0 for a plain one.
        activation: A name such as ``"leaky_relu(0.2)"``.

    Attributes:
        branch: A `Conv`, 3x3, or 4x4 where the block shrinks.
        shortcut: A 1x1 convolution, or an identity.

    Reference:
        Pre-activation residual blocks: He et al., arXiv:1603.05027; in GANs Miyato et al., arXiv:1802.05957.
    """

    branch_class: type[nn.Module] = Conv

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        resample: str = "none",
        spectral_norm: bool = True,
        norm: str = "none",
        num_labels: int = 0,
        activation: str = "leaky_relu(0.2)",
        **branch: Any,
    ):
        super().__init__()
        self.resample = resample
        self.norm = _build_norm(norm, in_channels, num_labels)
        # What a norm gives is nobody else's; what comes in goes over the shortcut too.
        self.activation = build_activation(activation, may_overwrite=norm != "none")
        self.branch = self.branch_class(
            in_channels,
            out_channels,
            **_KERNELS[resample],
            spectral_norm=spectral_norm,
            batch_norm=False,
            activation="identity",
            **branch,
        )
        self.shortcut = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = normalized(nn.Conv2d(in_channels, out_channels, kernel_size=1), spectral_norm, dim=0)

    def forward(
        self,
        feature_map: Float[Tensor, "batch in_channels height width"],
        labels: Float[Tensor, "batch num_labels"] | None = None,
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        """Give the sum of both paths."""
        activated = self.activation(normalize(self.norm, feature_map, labels))
        if self.resample == "down":
            feature_map = functional.avg_pool2d(feature_map, 2)
        shortcut = self.shortcut(feature_map)
        if self.resample == "up":  # after a 1x1 convolution, which is cheaper and the same
            shortcut = functional.interpolate(shortcut, scale_factor=2.0)
        return shortcut + self.branch(activated)


class FullAttentionBlock(ConvBlock):
    """`ConvBlock` with full attention where that has a convolution.

    Args:
        squeeze_factor, heads, similarity, key_pooling: The branch's, see `FullAttention`. Keys are pooled from what
            comes in or, where the block enlarges, from that at double size.
        in_channels, out_channels, resample, spectral_norm, norm, num_labels, activation: As in `ConvBlock`.

    Attributes:
        branch: A `FullAttention`. Its gate starts at 0: the block begins as a `ConvBlock`.
    """

    branch_class = FullAttention

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        squeeze_factor: int = 8,
        heads: int = 1,
        similarity: str = "cosine",
        key_pooling: int = 1,
        **options: Any,
    ):
        attention = {"squeeze_factor": squeeze_factor, "heads": heads}
        attention |= {"similarity": similarity, "key_pooling": key_pooling}
        super().__init__(in_channels, out_channels, **attention, **options)
