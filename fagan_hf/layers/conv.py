"""Convolutions as the networks use them: spectral norm on the weight, batch norm behind, an activation at the end."""

from jaxtyping import Float
from torch import Tensor, nn

from fagan_hf.layers.activations import build_activation
from fagan_hf.layers.batch_norm import build_batch_norm
from fagan_hf.layers.conditional_norm import normalize
from fagan_hf.layers.spectral_norm import spectral_norm
from fagan_hf.layers.upsampling import UpsamplingConv2d


class Conv(nn.Module):
    """Convolve, normalize, activate.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        kernel_size: Height and width of the kernel [pixels].
        stride: Step of the kernel [pixels].
        padding: Zeros around the input [pixels].
        bias: Does the convolution have a bias?
        spectral_norm: Divide the weight by its spectral norm?
        spectral_norm_dim: The weight's dimension that counts as rows for that norm.
        batch_norm: Normalize over the batch before the activation?
        num_labels: Width of the label vectors that steer the batch norm; 0 for a plain one.
        activation: A name such as ``"leaky_relu(0.2)"``.
        upsample: Double height and width first, see `UpsamplingConv2d`? The stride must be 1 and the padding half the
            kernel.
    """

    conv_class: type[nn.Conv2d] | type[nn.ConvTranspose2d] = nn.Conv2d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        spectral_norm: bool = True,
        spectral_norm_dim: int = 0,
        batch_norm: bool = False,
        num_labels: int = 0,
        activation: str = "identity",
        upsample: bool = False,
    ):
        super().__init__()
        if upsample:
            conv = UpsamplingConv2d(in_channels, out_channels, kernel_size, bias=bias)
        else:
            conv = self.conv_class(in_channels, out_channels, kernel_size, stride, padding, bias=bias)
        self.conv = normalized(conv, spectral_norm, spectral_norm_dim)
        self.batch_norm = build_batch_norm(out_channels, batch_norm, num_labels)
        self.activation = build_activation(activation, may_overwrite=True)

    def forward(
        self,
        feature_map: Float[Tensor, "batch in_channels height width"],
        labels: Float[Tensor, "batch num_labels"] | None = None,
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        """Give the activated feature map."""
        return self.activation(normalize(self.batch_norm, self.conv(feature_map), labels))


class ConvTranspose(Conv):
    """`Conv` with a transposed convolution: it enlarges where `Conv` shrinks."""

    conv_class = nn.ConvTranspose2d


def normalized(module: nn.Module, is_normalized: bool, dim: int) -> nn.Module:
    """Put spectral norm on a module's weight if asked for."""
    return spectral_norm(module, dim) if is_normalized else module
