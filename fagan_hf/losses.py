"""Adversarial losses: functions of logits, without networks, devices or randomness.

Each loss is a pair of functions of the discriminator's logits for real and for generated images. `LOSSES` lists the
pairs. Each declares whether the generator's loss uses the real logits, so that a training step computes them only where
they are needed.
"""

from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import relu, softplus

from fagan_hf.utils.own_names import check_name


def standard_discriminator(real: Float[Tensor, " real"], fake: Float[Tensor, " fake"]) -> Float[Tensor, ""]:
    """Classify real and generated images by logistic regression.

    Args:
        real: Logits of real images, unbounded; higher means more real.
        fake: Logits of generated images.

    Returns:
        Mean of both classes' cross-entropies [nats], as in the original (the paper has their sum); never negative;
        log 2 for a discriminator that always outputs 0.

    Reference:
        Goodfellow et al., arXiv:1406.2661, equation 1; ``StandardGAN`` of attn-gan-pytorch 1.2.3, which expects a
        discriminator that ends in a sigmoid.
    """
    return (softplus(-real).mean() + softplus(fake).mean()) / 2


def standard_generator(real: Float[Tensor, " real"] | None, fake: Float[Tensor, " fake"]) -> Float[Tensor, ""]:
    """Raise the predicted probability of fakes being real: the non-saturating loss.

    Args:
        real: Unused.
        fake: Logits of generated images.

    Returns:
        Mean of minus the log-probability [nats]; never negative.

    Reference:
        Goodfellow et al., arXiv:1406.2661, end of section 3.
    """
    return softplus(-fake).mean()


def least_squares_discriminator(real: Float[Tensor, " real"], fake: Float[Tensor, " fake"]) -> Float[Tensor, ""]:
    """Pull real logits to 1 and fake logits to 0.

    Each deviation is squared before taking the mean, as in the paper. ``LSGAN`` of attn-gan-pytorch 1.2.3 squares the
    mean instead, which a discriminator can satisfy with correct means and wrong logits.

    Args:
        real: Logits of real images, unbounded; higher means more real.
        fake: Logits of generated images.

    Returns:
        Half the sum of both mean squares; never negative; 1/2 for a discriminator that always outputs 0.

    Reference:
        Mao et al., arXiv:1611.04076, with labels 0 and 1.
    """
    return 0.5 * ((real - 1).square().mean() + fake.square().mean())


def least_squares_generator(real: Float[Tensor, " real"] | None, fake: Float[Tensor, " fake"]) -> Float[Tensor, ""]:
    """Pull fake logits to 1.

    Args:
        real: Unused.
        fake: Logits of generated images.

    Returns:
        Half their mean squared distance from 1; never negative.

    Reference:
        Mao et al., arXiv:1611.04076, with labels 0 and 1.
    """
    return 0.5 * (fake - 1).square().mean()


def hinge_discriminator(real: Float[Tensor, " real"], fake: Float[Tensor, " fake"]) -> Float[Tensor, ""]:
    """Push real logits above 1 and fake logits below -1.

    Args:
        real: Logits of real images, unbounded; higher means more real.
        fake: Logits of generated images.

    Returns:
        Sum of both means; never negative; 2 for a discriminator that always outputs 0.

    Reference:
        Geometric GAN, arXiv:1705.02894; SAGAN, arXiv:1805.08318, equation 4.
    """
    return relu(1 - real).mean() + relu(1 + fake).mean()


def hinge_generator(real: Float[Tensor, " real"] | None, fake: Float[Tensor, " fake"]) -> Float[Tensor, ""]:
    """Raise the fake logits, without bound.

    Args:
        real: Unused.
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
        fake: Logits of generated images.

    Returns:
        Sum of both means, as in the original; never negative; invariant to a shift of all logits.

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
        real: Logits of real images; they affect the generator's gradient only through the comparison with the fakes.
        fake: Logits of generated images.

    Raises:
        ValueError: The real logits are missing.
    """
    return relativistic_hinge_discriminator(fake, _required(real))


def wasserstein_discriminator(real: Float[Tensor, " real"], fake: Float[Tensor, " fake"]) -> Float[Tensor, ""]:
    """Raise real logits over fake ones, without bound.

    Its negative estimates the Wasserstein distance only if the discriminator's slope is at most 1, so combine it with
    `fagan_hf.penalties.wasserstein_gradient_penalty`.

    Args:
        real: Logits of real images, unbounded; higher means more real.
        fake: Logits of generated images.

    Returns:
        Mean of the fakes minus that of the real ones, of any sign; invariant to a shift of all logits.

    Reference:
        Arjovsky et al., arXiv:1701.07875, equation 2; the penalty: Gulrajani et al., arXiv:1704.00028, equation 3.
    """
    return fake.mean() - real.mean()


def wasserstein_generator(real: Float[Tensor, " real"] | None, fake: Float[Tensor, " fake"]) -> Float[Tensor, ""]:
    """Raise the fake logits, without bound.

    Args:
        real: Unused.
        fake: Logits of generated images.

    Returns:
        Minus their mean, as in the hinge loss.

    Reference:
        Arjovsky et al., arXiv:1701.07875.
    """
    return -fake.mean()


def relativistic_pairing_discriminator(real: Float[Tensor, " real"], fake: Float[Tensor, " fake"]) -> Float[Tensor, ""]:
    """Classify which image of a pair is the real one.

    Args:
        real: Logits of real images, unbounded; higher means more real.
        fake: Logits of as many generated images, one for each real one.

    Returns:
        Mean cross-entropy [nats]; never negative; log 2 for a discriminator that always outputs 0; invariant to a shift
        of all logits.

    Raises:
        ValueError: The numbers of real and fake logits differ.

    Reference:
        Relativistic GAN, Jolicoeur-Martineau, arXiv:1807.00734; as RpGAN in R3GAN, Huang et al., arXiv:2501.05441,
        equation 2.
    """
    if len(real) != len(fake):
        raise ValueError(f"there are {len(real)} real logits and {len(fake)} fake ones; they are compared in pairs")
    return softplus(fake - real).mean()


def relativistic_pairing_generator(
    real: Float[Tensor, " real"] | None, fake: Float[Tensor, " fake"]
) -> Float[Tensor, ""]:
    """Take the discriminator's loss with the roles swapped.

    Args:
        real: Logits of real images.
        fake: Logits of as many generated images.

    Raises:
        ValueError: The real logits are missing, or their number differs from that of the fake ones.
    """
    return relativistic_pairing_discriminator(fake, _required(real))


def _required(real: Float[Tensor, " real"] | None) -> Float[Tensor, " real"]:
    """Return the real logits; a relativistic generator loss compares the fakes with them."""
    if real is None:
        raise ValueError("real logits are None; the relativistic generator loss compares the fakes with them")
    return real


@runtime_checkable
class LossFunction(Protocol):
    """A function of real and fake logits."""

    def __call__(self, real: Tensor, fake: Tensor, /) -> Tensor:
        """Return a scalar."""
        ...


@runtime_checkable
class GeneratorLossFunction(Protocol):
    """A function of real logits, if it uses them, and fake ones."""

    def __call__(self, real: Tensor | None, fake: Tensor, /) -> Tensor:
        """Return a scalar."""
        ...


@dataclass(frozen=True)
class Loss:
    """The losses of both players.

    Attributes:
        discriminator: Function of real and fake logits.
        generator: Function of real logits (or none) and fake ones.
        is_relative: Whether the generator's loss uses the real logits.
        undecided: The logit at the decision boundary; ``None`` if only differences matter: the boundary is then the
            mean logit of the other class.
        compares_with_means: Whether the loss is not a mean over images (or pairs), so that a batch can't be split.
    """

    discriminator: LossFunction
    generator: GeneratorLossFunction
    is_relative: bool = False
    undecided: float | None = None
    compares_with_means: bool = False


def accuracies(
    loss: Loss, real: Float[Tensor, " real"], fake: Float[Tensor, " fake"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the discriminator's accuracies.

    Args:
        loss: The loss, which determines the decision boundary.
        real: Logits of real images.
        fake: Logits of generated images.

    Returns:
        Fraction of real images classified as real, and of generated images classified as generated, both in [0, 1];
        near 1/2 for a discriminator that can't tell them apart.
    """
    real_border, fake_border = (fake.mean(), real.mean()) if loss.undecided is None else (loss.undecided,) * 2
    return (real > real_border).to(real.dtype).mean(), (fake < fake_border).to(fake.dtype).mean()


def overfitting(loss: Loss, real: Float[Tensor, " real"], fake: Float[Tensor, " fake"]) -> Float[Tensor, ""]:
    """Return how consistently the discriminator puts real training images on the real side: the heuristic of ADA.

    Where a loss has no undecided logit, since only differences matter, the border is the midpoint of both means. The
    mean fake logit would not be comparable: a discriminator that is right about 9 of 10 pairs, as in healthy long runs,
    is right about the midpoint in 4 of 5.

    Args:
        loss: The loss, which determines the decision boundary.
        real: Logits of real training images.
        fake: Logits of generated images.

    Returns:
        Mean sign of the real logits relative to the border, in [-1, 1]: near 0 for a discriminator that can't tell real
        images from fakes, 1 for one that recognizes every training image.

    Reference:
        Karras et al., arXiv:2006.06676, equation 1, right.
    """
    border = (real.mean() + fake.mean()) / 2 if loss.undecided is None else loss.undecided
    return (real - border).sign().mean()


LOSSES: dict[str, Loss] = {
    "standard": Loss(standard_discriminator, standard_generator, undecided=0.0),
    "least_squares": Loss(least_squares_discriminator, least_squares_generator, undecided=0.5),
    "hinge": Loss(hinge_discriminator, hinge_generator, undecided=0.0),
    "relativistic_hinge": Loss(
        relativistic_hinge_discriminator, relativistic_hinge_generator, is_relative=True, compares_with_means=True
    ),
    "wasserstein": Loss(wasserstein_discriminator, wasserstein_generator),
    "relativistic_pairing": Loss(relativistic_pairing_discriminator, relativistic_pairing_generator, is_relative=True),
}


def register_loss(name: str, loss: Loss) -> None:
    """Register a loss of your own, for `loss` in recipes.

    It is tried on a few logits first. Registered again under its name, as by rerunning a notebook cell, the same
    definition replaces the older one.

    Args:
        name: A word in lower case.
        loss: Both players' functions. Training relies on its attributes: a batch is split over processes and
            micro-batches, and real logits are left out where they are not used.

    Raises:
        ValueError: The name is taken or not a word, or a function does not do what the attributes say.
    """
    if not isinstance(loss, Loss):
        raise ValueError(f"loss {name!r} is {loss!r}; it must be a fagan_hf.losses.Loss")
    check_name("loss", name, loss.discriminator, {key: each.discriminator for key, each in LOSSES.items()})
    random = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, 8, generator=random).unbind()
    generator = loss.generator if loss.is_relative else partial(_without_real, loss.generator)
    for player, function in (("discriminator", loss.discriminator), ("generator", generator)):
        value = function(real, fake.requires_grad_())
        halves = (function(real[:4], fake[:4]) + function(real[4:], fake[4:])) / 2
        if value.shape != ():
            problem = f"returned {list(value.shape)} instead of a scalar"
        elif not value.requires_grad:
            problem = "does not depend on the fakes in a differentiable way"
        elif not loss.compares_with_means and not torch.allclose(value, halves, atol=1e-5):
            problem = "is not a mean over images, since halves of a batch have another; set compares_with_means=True"
        else:
            continue
        raise ValueError(f"loss {name!r}: the {player}'s {problem}")
    LOSSES[name] = loss


def _without_real(function: GeneratorLossFunction, _: Tensor, fake: Tensor) -> Tensor:
    """Call a generator's loss as training does if it is not relative."""
    try:
        return function(None, fake)
    except (TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"the generator's loss can't be computed without real logits ({error}); if it uses them, set "
            "is_relative=True"
        ) from error
