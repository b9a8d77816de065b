"""A convolution of an upsampled feature map, without materializing it."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fagan_hf.architectures.specs import ConvSpec, check_arguments


class UpsamplingConv2d(nn.Conv2d):
    """Double height and width by nearest neighbor, then convolve, in one transposed convolution.

    In the doubled map each 2x2 square has equal values, so a 3x3 kernel covers only 2x2 different ones: this equals a
    transposed convolution whose 4x4 kernel consists of sums of the 3x3 kernel's entries. It takes 4/9 of the
    multiplications, without the checkerboard artifacts of unconstrained transposed kernels (Odena et al.,
    https://distill.pub/2016/deconv-checkerboard).

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        kernel_size: Height and width of the kernel in the doubled map [pixels]; odd.
        bias: Whether there is a bias.

    Raises:
        ValueError: An argument is not allowed; the rules and messages are those of its spec.

    Reference:
        Fused so in Progressive Growing of GANs, Karras et al., arXiv:1710.10196 (their code's ``upscale2d_conv2d``).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, bias: bool = True):
        check_arguments(ConvSpec, {**locals(), "padding": kernel_size // 2, "upsample": True})
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)

    def forward(
        self,
        input: Float[Tensor, "batch in_channels height width"],  # noqa: A002  # torch's name
    ) -> Float[Tensor, "batch out_channels doubled_height doubled_width"]:
        """Return the convolved map at twice the height and width."""
        # Each input pixel appears twice in both directions, so each row and column corresponds to two of the kernel's.
        kernel = self.weight.flip(2, 3)
        kernel = functional.pad(kernel, (0, 1)) + functional.pad(kernel, (1, 0))
        kernel = functional.pad(kernel, (0, 0, 0, 1)) + functional.pad(kernel, (0, 0, 1, 0))
        return functional.conv_transpose2d(input, kernel.transpose(0, 1), self.bias, 2, self.kernel_size[0] // 2)
