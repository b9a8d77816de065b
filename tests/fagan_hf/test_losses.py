import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fagan_hf.losses import LOSSES, hinge_discriminator, hinge_generator, relativistic_hinge_generator

logits = st.lists(st.floats(-50, 50), min_size=1, max_size=8).map(lambda values: torch.tensor(values).double())


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_an_undecided_discriminator_pays_two(loss):
    zeros = torch.zeros(4)
    assert loss.discriminator(zeros, zeros).item() == 2


def test_hinge_by_hand():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.5])
    assert hinge_discriminator(real, fake).item() == pytest.approx((0 + 0.5) / 2 + (0 + 1.5) / 2)
    assert hinge_generator(None, fake).item() == pytest.approx(1.25)


@given(logits, logits, st.floats(-50, 50))
def test_the_relativistic_loss_is_unmoved_by_a_shift(real, fake, shift):
    loss = LOSSES["relativistic_hinge"]
    for function in (loss.discriminator, loss.generator):
        assert math.isclose(function(real + shift, fake + shift), function(real, fake), abs_tol=1e-9)


@given(logits, logits)
def test_the_relativistic_generator_is_the_discriminator_with_roles_swapped(real, fake):
    loss = LOSSES["relativistic_hinge"]
    assert torch.equal(loss.generator(real, fake), loss.discriminator(fake, real))


@given(logits, logits)
def test_discriminator_losses_are_never_negative(real, fake):
    assert all(loss.discriminator(real, fake) >= 0 for loss in LOSSES.values())


def test_the_relativistic_generator_needs_the_real_logits():
    with pytest.raises(ValueError, match="real logits are None"):
        relativistic_hinge_generator(None, torch.zeros(2))
