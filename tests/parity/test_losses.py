"""Our losses against the original's, whose losses call the discriminator themselves."""

import pytest
import torch
from attn_gan_pytorch import Losses

from fagan_hf.losses import LOSSES

EQUAL = {
    "standard": Losses.StandardGAN,
    "hinge": Losses.HingeGAN,
    "relativistic_hinge": Losses.RelativisticAverageHingeGAN,
}
CLOSE = {"rtol": 0, "atol": 1e-14}


@pytest.fixture(autouse=True)
def _double_precision():
    """For the targets that `StandardGAN` makes."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def made(name, original, critic):
    """Make the original's loss with a discriminator; its `StandardGAN` expects one that ends in a sigmoid."""
    return original("cpu", (lambda *inputs: critic(*inputs).sigmoid()) if name == "standard" else critic)


@pytest.mark.parametrize(("name", "original"), EQUAL.items())
def test_loss_equals_the_original(name, original):
    real, fake = 2 * torch.randn(2, 64)
    theirs, ours = made(name, original, torch.nn.Identity()), LOSSES[name]
    torch.testing.assert_close(ours.discriminator(real, fake), theirs.dis_loss(real, fake), **CLOSE)
    torch.testing.assert_close(ours.generator(real, fake), theirs.gen_loss(real, fake), **CLOSE)


@pytest.mark.parametrize(("name", "original"), EQUAL.items())
def test_conditional_loss_equals_the_original(name, original):
    def critic(images, labels):
        return images * labels + labels

    real, fake, labels = torch.randn(3, 64)
    theirs, ours = made(name, original, critic), LOSSES[name]
    logits = critic(real, labels), critic(fake, labels)
    torch.testing.assert_close(ours.discriminator(*logits), theirs.conditional_dis_loss(real, fake, labels), **CLOSE)
    torch.testing.assert_close(ours.generator(*logits), theirs.conditional_gen_loss(real, fake, labels), **CLOSE)


@pytest.mark.parametrize("images", [1, 64])
@pytest.mark.parametrize("is_conditional", [False, True])
def test_least_squares_differ_from_the_original_by_the_variance(images, is_conditional):
    """The original squares the mean, so it ignores the variance of the logits; with one image there is none."""

    def critic(images, labels):
        return images * labels + labels

    real, fake, labels = torch.randn(3, images)
    ours = LOSSES["least_squares"]
    if is_conditional:
        theirs = Losses.LSGAN("cpu", critic)
        discriminator_loss = theirs.conditional_dis_loss(real, fake, labels)
        generator_loss = theirs.conditional_gen_loss(real, fake, labels)
        real, fake = critic(real, labels), critic(fake, labels)
    else:
        theirs = Losses.LSGAN("cpu", torch.nn.Identity())
        discriminator_loss, generator_loss = theirs.dis_loss(real, fake), theirs.gen_loss(real, fake)
    scatter = [logits.var(correction=0) for logits in (real, fake)]
    torch.testing.assert_close(ours.discriminator(real, fake) - discriminator_loss, sum(scatter) / 2, **CLOSE)
    torch.testing.assert_close(ours.generator(None, fake) - generator_loss, scatter[1] / 2, **CLOSE)
