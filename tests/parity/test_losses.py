"""Our losses against the original's, whose losses call the discriminator themselves."""

import pytest
import torch
from attn_gan_pytorch import Losses

from fagan_hf.losses import LOSSES


@pytest.mark.parametrize(
    ("name", "original"),
    [("hinge", Losses.HingeGAN), ("relativistic_hinge", Losses.RelativisticAverageHingeGAN)],
)
def test_loss_equals_the_original(name, original):
    real, fake = 2 * torch.randn(2, 64, dtype=torch.float64)
    theirs = original(None, torch.nn.Identity())
    ours = LOSSES[name]
    torch.testing.assert_close(ours.discriminator(real, fake), theirs.dis_loss(real, fake), rtol=0, atol=1e-14)
    torch.testing.assert_close(ours.generator(real, fake), theirs.gen_loss(real, fake), rtol=0, atol=1e-14)
