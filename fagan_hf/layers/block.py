"""Residual blocks: a layer with a shortcut around it."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fagan_hf.architectures.specs import NORMS, ConvBlockSpec, FullAttentionBlockSpec, check_arguments
from fagan_hf.layers.activations import build_activation
from fagan_hf.layers.attention import FullAttention
from fagan_hf.layers.batch_norm import build_batch_norm
from fagan_hf.layers.conditional_norm import apply_norm
from fagan_hf.layers.conv import Conv, maybe_spectral_norm
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
    """A residual block with one convolution: ``shortcut(x) + branch(activation(norm(x)))``.

    To upsample, both paths are first doubled by nearest neighbor, see `UpsamplingConv2d`. To downsample, the branch has
    stride 2, and the shortcut averages 2x2 pixels.

    Args:
        in_channels: Input channels.
        out_channels: Output channels; if equal to `in_channels`, the shortcut only changes the size.
        resample: ``"up"`` doubles height and width, ``"down"`` halves them, ``"none"`` keeps them.
        spectral_norm: Divide the weights of the convolution and of the shortcut by their spectral norms.
        norm: Norm of the input: ``"none"``, ``"batch"``, or ``"rms"`` at each position, see `ChannelRMSNorm`.
        num_labels: Width of the label vectors that condition the norm; 0 for a plain one.
        activation: A name such as ``"leaky_relu(0.2)"``.

    Attributes:
        branch: A `Conv`, 3x3, or 4x4 for downsampling.
        shortcut: A 1x1 convolution, or an identity.

    Raises:
        ValueError: An argument is not allowed; the rules and messages are those of its spec.

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
        check_arguments(ConvBlockSpec, locals())
        super().__init__()
        self.resample = resample
        self.norm = _build_norm(norm, in_channels, num_labels)
        # The output of a norm is used only here; the input is also used by the shortcut.
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
            self.shortcut = maybe_spectral_norm(
                nn.Conv2d(in_channels, out_channels, kernel_size=1), spectral_norm, dim=0
            )

    def extra_repr(self) -> str:
        """Return how the block changes the size."""
        return f"resample={self.resample!r}"

    def forward(
        self,
        feature_map: Float[Tensor, "batch in_channels height width"],
        labels: Float[Tensor, "batch num_labels"] | None = None,
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        """Return the sum of both paths."""
        activated = self.activation(apply_norm(self.norm, feature_map, labels))
        if self.resample == "down":
            feature_map = functional.avg_pool2d(feature_map, 2)
        shortcut = self.shortcut(feature_map)
        if self.resample == "up":  # after a 1x1 convolution, which is cheaper and equivalent
            shortcut = functional.interpolate(shortcut, scale_factor=2.0)
        return shortcut + self.branch(activated)


class FullAttentionBlock(ConvBlock):
    """`ConvBlock` with full attention instead of the convolution.

    Args:
        squeeze_factor, heads, similarity, key_pooling: Arguments of the branch, see `FullAttention`. Keys are pooled
            from the input, or from the doubled input if the block upsamples.
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
        check_arguments(FullAttentionBlockSpec, {**locals(), **options})
        attention = {"squeeze_factor": squeeze_factor, "heads": heads}
        attention |= {"similarity": similarity, "key_pooling": key_pooling}
        super().__init__(in_channels, out_channels, **attention, **options)
