"""Full attention in a residual block."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fagan_hf.layers.activations import build_activation
from fagan_hf.layers.attention import FullAttention
from fagan_hf.layers.batch_norm import build_batch_norm, normalise
from fagan_hf.layers.conv import normalised


class FullAttentionBlock(nn.Module):
    """A feature map, and what full attention adds to it: ``shortcut(x) + full_attention(activation(norm(x)))``.

    Where the block enlarges, both paths are enlarged by bilinear interpolation first: transposed convolutions leave
    their grid in flat areas (Odena et al., https://distill.pub/2016/deconv-checkerboard). Where it shrinks, the
    attention layer takes steps of two pixels, and the shortcut means of 2x2.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out; where there are as many, nothing is between input and sum on the shortcut
            but the change of size.
        resample: ``"up"`` doubles height and width, ``"down"`` halves them, ``"none"`` keeps them.
        squeeze_factor, heads, similarity, key_pooling: The attention layer's, see `FullAttention`. Keys are pooled from
            what comes in or, where the block enlarges, from that at double size.
        spectral_norm: Divide the weights of the convolution path and of the shortcut by their spectral norms?
        batch_norm: Normalise what comes in over the batch?
        num_labels: Width of the label vectors that steer the batch norm; 0 for a plain one.
        activation: A name such as ``"leaky_relu(0.2)"``.

    Attributes:
        full_attention: Its gate, ``alpha``, starts at 0: the block begins as a convolutional one.
        shortcut: A 1x1 convolution, or an identity.

    Reference:
        Pre-activation residual blocks: He et al., arXiv:1603.05027; in GANs Miyato et al., arXiv:1802.05957.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        resample: str = "none",
        squeeze_factor: int = 8,
        heads: int = 1,
        similarity: str = "cosine",
        key_pooling: int = 1,
        spectral_norm: bool = True,
        batch_norm: bool = False,
        num_labels: int = 0,
        activation: str = "leaky_relu(0.2)",
    ):
        super().__init__()
        self.resample = resample
        self.batch_norm = build_batch_norm(in_channels, batch_norm, num_labels)
        # What a batch norm gives is nobody else's; what comes in goes over the shortcut too.
        self.activation = build_activation(activation, may_overwrite=batch_norm)
        self.full_attention = FullAttention(
            in_channels,
            out_channels,
            **{"kernel_size": 4, "stride": 2, "padding": 1} if resample == "down" else {"kernel_size": 3, "padding": 1},
            squeeze_factor=squeeze_factor,
            spectral_norm=spectral_norm,
            batch_norm=False,
            activation="identity",
            heads=heads,
            similarity=similarity,
            key_pooling=key_pooling,
        )
        self.shortcut = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = normalised(nn.Conv2d(in_channels, out_channels, kernel_size=1), spectral_norm, dim=0)

    def forward(
        self,
        feature_map: Float[Tensor, "batch in_channels height width"],
        labels: Float[Tensor, "batch num_labels"] | None = None,
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        """Give the sum of both paths."""
        activated = self.activation(normalise(self.batch_norm, feature_map, labels))
        if self.resample == "up":  # a 1x1 convolution is cheaper before, and the same
            return _doubled(self.shortcut(feature_map)) + self.full_attention(_doubled(activated))
        if self.resample == "down":
            feature_map = functional.avg_pool2d(feature_map, 2)
        return self.shortcut(feature_map) + self.full_attention(activated)


def _doubled(feature_map: Tensor) -> Tensor:
    return functional.interpolate(feature_map, scale_factor=2.0, mode="bilinear")
