"""Convolutions of the networks: spectral norm on the weight, then batch norm, then an activation."""

from jaxtyping import Float
from torch import Tensor, nn

from fagan_hf.architectures.specs import ConvSpec, ConvTransposeSpec, check_arguments
from fagan_hf.layers.activations import build_activation
from fagan_hf.layers.batch_norm import build_batch_norm
from fagan_hf.layers.conditional_norm import apply_norm
from fagan_hf.layers.spectral_norm import spectral_norm
from fagan_hf.layers.upsampling import UpsamplingConv2d


class Conv(nn.Module):
    """Convolve, normalize, activate.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        kernel_size: Height and width of the kernel [pixels].
        stride: Stride of the kernel [pixels].
        padding: Zeros around the input [pixels].
        bias: Whether the convolution has a bias.
        spectral_norm: Divide the weight by its spectral norm.
        spectral_norm_dim: The weight's dimension used as the rows for that norm.
        batch_norm: Apply batch norm before the activation.
        num_labels: Width of the label vectors that condition the batch norm; 0 for a plain one.
        activation: A name such as ``"leaky_relu(0.2)"``.
        upsample: Double height and width first, see `UpsamplingConv2d`. The stride must be 1 and the padding half the
            kernel.

    Raises:
        ValueError: An argument is not allowed; the rules and messages are those of its spec.
    """

    conv_class: type[nn.Conv2d] | type[nn.ConvTranspose2d] = nn.Conv2d
    spec_class: type[ConvSpec] = ConvSpec

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
        check_arguments(self.spec_class, locals())
        super().__init__()
        if upsample:
            conv = UpsamplingConv2d(in_channels, out_channels, kernel_size, bias=bias)
        else:
            conv = self.conv_class(in_channels, out_channels, kernel_size, stride, padding, bias=bias)
        self.conv = maybe_spectral_norm(conv, spectral_norm, spectral_norm_dim)
        self.batch_norm = build_batch_norm(out_channels, batch_norm, num_labels)
        self.activation = build_activation(activation, may_overwrite=True)

    def forward(
        self,
        feature_map: Float[Tensor, "batch in_channels height width"],
        labels: Float[Tensor, "batch num_labels"] | None = None,
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        """Return the activated feature map."""
        return self.activation(apply_norm(self.batch_norm, self.conv(feature_map), labels))


class ConvTranspose(Conv):
    """`Conv` with a transposed convolution: it upsamples where `Conv` downsamples."""

    conv_class = nn.ConvTranspose2d
    spec_class = ConvTransposeSpec


def maybe_spectral_norm(module: nn.Module, is_normalized: bool, dim: int) -> nn.Module:
    """Apply spectral norm to a module's weight if requested."""
    return spectral_norm(module, dim) if is_normalized else module
