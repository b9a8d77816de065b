"""Penalties on a discriminator's slope: functions of a discriminator and images, without weights or randomness.

Training weights them and adds them to the discriminator's loss. Labels are bound by the caller, for example
``zero_centered_gradient_penalty(lambda images: discriminator(images, labels), images)``. No gradient passes through the
images, so none reaches a generator.

The gradient is that of each image's own logit if logits depend only on their own image. Batch norm in training mode
mixes the images of a batch; then it is the gradient of the sum of all logits.

Autocast is disabled around the discriminator. A network prepared by Accelerate for mixed precision enables it again,
with its rounding: ``accelerator.unwrap_model(network, keep_fp32_wrapper=False)`` returns the unwrapped one.
"""

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import parametrize

from fagan_hf.layers.execution import no_autocast
from fagan_hf.layers.functional import twice_differentiable


@runtime_checkable
class Critic(Protocol):
    """A discriminator with its labels bound, or any other function from images to logits."""

    def __call__(self, images: Tensor, /) -> Tensor:
        """Return the logits ``[batch]`` of images ``[batch, channels, height, width]``."""
        ...


def zero_centered_gradient_penalty(
    discriminator: Critic, images: Float[Tensor, "batch channels height width"]
) -> Float[Tensor, ""]:
    """Compute the zero-centered gradient penalty: R1 at real images, R2 at generated ones.

    Args:
        discriminator: Called once; computed in single precision at least.
        images: Where to measure, in [-1, 1].

    Returns:
        Mean over the images of the squared length of the logit's gradient with respect to the pixels; never negative.
        It is usually weighted by gamma / 2.

    Reference:
        Mescheder et al., arXiv:1801.04406, equations 9 and 10.
    """
    return _gradients(discriminator, images).square().sum(1).mean()


def wasserstein_gradient_penalty(
    discriminator: Critic,
    real: Float[Tensor, "batch channels height width"],
    fake: Float[Tensor, "fakes channels fake_height fake_width"],
    mix: Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """Penalize the deviation of the discriminator's slope from 1 between real and generated images.

    Args:
        discriminator: Called once; computed in single precision at least.
        real: Real images, in [-1, 1].
        fake: As many generated ones of the same size.
        mix: Weight of the real image in each mixture, sampled uniformly from [0, 1].

    Returns:
        Mean over the mixtures of ``(length of the gradient - 1)^2``; never negative. The paper weights it by 10.

    Raises:
        ValueError: Real and generated images differ in shape.

    Reference:
        Gulrajani et al., arXiv:1704.00028, equation 3.
    """
    _check_same_shape("real images", real, "fake images", fake)
    share = mix[:, None, None, None]
    # The gradient of `norm` at 0 is 0; that of a square root of squares would be NaN.
    lengths = _gradients(discriminator, share * real + (1 - share) * fake).norm(dim=1)
    return (lengths - 1).square().mean()


def approximate_gradient_penalty(
    discriminator: Critic,
    images: Float[Tensor, "batch channels height width"],
    noise: Float[Tensor, "noises channels noise_height noise_width"],
    sigma: float = 0.01,
) -> Float[Tensor, ""]:
    """Approximate the gradient penalty by a small random step, without a second derivative.

    Its expectation over the noise approximates `zero_centered_gradient_penalty`, and equals it for a linear
    discriminator. For a smooth one its gradient for the weights is correct too. With leaky ReLU it may not be: if units
    are within a step of their kinks it can point far away from R1's.

    Args:
        discriminator: Called twice, with the same spectrally normalized weights; computed in single precision at
            least, because half precision would lose the small difference of logits. Fused attention kernels are used.
        images: Where to measure, in [-1, 1].
        noise: Standard normal numbers of the images' shape.
        sigma: Length of the step in each pixel's value.

    Returns:
        Mean over the images of ``((D(image + sigma * noise) - D(image)) / sigma)^2``; never negative.

    Raises:
        ValueError: Images and noise differ in shape, or ``sigma`` is not positive and finite.

    Reference:
        Approximated R1, Lin et al., arXiv:2501.08316: ``||D(x) - D(N(x, sigma I))||^2``. They do not divide by sigma,
        so their weight of 100 at a sigma of 0.01 is one of 0.01 here.
    """
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma is {sigma}; it must be positive and finite")
    _check_same_shape("images", images, "noise", noise)
    images = _detached(images)
    # In training mode spectral norm would use another weight in each call, and dropout another mask, and the difference
    # is divided by sigma: so weights are cached, and the second call repeats the random numbers of the first.
    devices = [images.device] if images.is_cuda else []
    with no_autocast(images.device), parametrize.cached():
        with torch.random.fork_rng(devices):
            moved = discriminator(images + sigma * noise.to(images))
        difference = moved - discriminator(images)
    return (difference / sigma).square().mean()


def _gradients(
    discriminator: Critic, images: Float[Tensor, "batch channels height width"]
) -> Float[Tensor, "batch pixels"]:
    """Return the gradient of each image's logit with respect to its pixels, itself differentiable."""
    images = _detached(images).requires_grad_()
    with no_autocast(images.device), twice_differentiable():
        [gradients] = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    return gradients.flatten(1)


def _detached(images: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Detach images from their graph, in single precision at least."""
    return images.detach().to(torch.promote_types(images.dtype, torch.float32))


def _check_same_shape(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    if tensor.shape != other.shape:
        raise ValueError(f"{name} are {list(tensor.shape)} and {other_name} {list(other.shape)}; both must be the same")
