"""Adversarial losses: functions of logits, without networks, devices or randomness.

Each loss is a pair of functions of the discriminator's logits for real and for generated images. `LOSSES` names the
pairs. A pair says whether its generator's loss looks at the real logits, so that a training step computes them only
where they are needed.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import relu


def hinge_discriminator(real: Float[Tensor, " real"], fake: Float[Tensor, " fake"]) -> Float[Tensor, ""]:
    """Push real logits above 1 and fake logits below -1.

    Args:
        real: Logits of real images, unbounded; higher means more real.
        fake: The same for generated images.

    Returns:
        Sum of both means; never negative; 2 for a discriminator that always says 0.

    Reference:
        Geometric GAN, arXiv:1705.02894; SAGAN, arXiv:1805.08318, equation 4.
    """
    return relu(1 - real).mean() + relu(1 + fake).mean()


def hinge_generator(real: Float[Tensor, " real"] | None, fake: Float[Tensor, " fake"]) -> Float[Tensor, ""]:
    """Raise the fake logits, without bound.

    Args:
        real: Not looked at.
        fake: Logits of generated images.

    Returns:
        Minus their mean.

    Reference:
        SAGAN, arXiv:1805.08318, equation 4.
    """
    return -fake.mean()


def relativistic_hinge_discriminator(real: Float[Tensor, " real"], fake: Float[Tensor, " fake"]) -> Float[Tensor, ""]:
    """Push each logit a margin of 1 away from the mean of the opposite class.

    Args:
        real: Logits of real images, unbounded; higher means more real.
        fake: The same for generated images.

    Returns:
        Sum of both means, as in the original; never negative; unmoved by a shift of all logits.

    Reference:
        Relativistic average hinge GAN, Jolicoeur-Martineau, arXiv:1807.00734; ``RelativisticAverageHingeGAN`` of
        attn-gan-pytorch 1.2.3.
    """
    return relu(1 - (real - fake.mean())).mean() + relu(1 + (fake - real.mean())).mean()


def relativistic_hinge_generator(
    real: Float[Tensor, " real"] | None, fake: Float[Tensor, " fake"]
) -> Float[Tensor, ""]:
    """Take the discriminator's loss with the roles swapped.

    Args:
        real: Logits of real images. They pass no gradient to a generator but through the mean of the fakes.
        fake: Logits of generated images.

    Raises:
        ValueError: The real logits are missing.
    """
    if real is None:
        raise ValueError("real logits are None; the relativistic generator loss compares the fakes with them")
    return relativistic_hinge_discriminator(fake, real)


@runtime_checkable
class LossFunction(Protocol):
    """A function of real and fake logits."""

    def __call__(self, real: Tensor, fake: Tensor, /) -> Tensor:
        """Give a scalar."""
        ...


@runtime_checkable
class GeneratorLossFunction(Protocol):
    """A function of real logits, where it wants them, and fake ones."""

    def __call__(self, real: Tensor | None, fake: Tensor, /) -> Tensor:
        """Give a scalar."""
        ...


@dataclass(frozen=True)
class Loss:
    """What both players minimise.

    Attributes:
        discriminator: Of real and fake logits.
        generator: Of real logits (or none) and fake ones.
        is_relative: Does the generator's loss look at the real logits?
    """

    discriminator: LossFunction
    generator: GeneratorLossFunction
    is_relative: bool


LOSSES = {
    "hinge": Loss(hinge_discriminator, hinge_generator, is_relative=False),
    "relativistic_hinge": Loss(relativistic_hinge_discriminator, relativistic_hinge_generator, is_relative=True),
}
