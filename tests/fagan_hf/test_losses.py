import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fagan_hf.losses import LOSSES, accuracies

numbers = st.floats(-50, 50)
logits = st.lists(numbers, min_size=1, max_size=8).map(lambda values: torch.tensor(values).double())
pairs = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=8).map(
    lambda values: torch.tensor(values).double().T
)

RELATIVE = [name for name, loss in LOSSES.items() if loss.is_relative]


@pytest.mark.parametrize(
    ("name", "discriminator", "generator"),
    [
        ("standard", math.log(2), math.log(2)),
        ("least_squares", 0.5, 0.5),
        ("hinge", 2, 0),
        ("relativistic_hinge", 2, 2),
        ("wasserstein", 0, 0),
        ("relativistic_pairing", math.log(2), math.log(2)),
    ],
)
def test_what_an_undecided_discriminator_costs(name, discriminator, generator):
    zeros = torch.zeros(4)
    assert LOSSES[name].discriminator(zeros, zeros).item() == pytest.approx(discriminator)
    assert LOSSES[name].generator(zeros, zeros).item() == pytest.approx(generator)


def cost(logit):
    """Return the cross-entropy of a logit that should be high."""
    return math.log(1 + math.exp(-logit))


@pytest.mark.parametrize(
    ("name", "discriminator", "generator"),
    [
        ("standard", (cost(2) + cost(0.5) + cost(3) + cost(-0.5)) / 4, (cost(-3) + cost(0.5)) / 2),
        ("least_squares", (1 + 0.25 + 9 + 0.25) / 4, (16 + 0.25) / 4),
        ("hinge", (0 + 0.5) / 2 + (0 + 1.5) / 2, 1.25),
        # The means are 1.25 and -1.25.
        ("relativistic_hinge", (0 + 0) / 2 + (0 + 0.25) / 2, (4.25 + 2.75) / 2 + (5.25 + 1.75) / 2),
        ("wasserstein", -2.5, 1.25),
        ("relativistic_pairing", (cost(5) + cost(0)) / 2, (cost(-5) + cost(0)) / 2),
    ],
)
def test_by_hand(name, discriminator, generator):
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.5])
    assert LOSSES[name].discriminator(real, fake).item() == pytest.approx(discriminator)
    assert LOSSES[name].generator(real, fake).item() == pytest.approx(generator)


@given(pairs, numbers)
@pytest.mark.parametrize(
    "function",
    [
        *(LOSSES[name].discriminator for name in RELATIVE),
        *(LOSSES[name].generator for name in RELATIVE),
        LOSSES["wasserstein"].discriminator,
    ],
)
def test_some_losses_are_unmoved_by_a_shift(function, pairs, shift):
    real, fake = pairs
    assert math.isclose(function(real + shift, fake + shift), function(real, fake), rel_tol=1e-9, abs_tol=1e-9)


@given(pairs)
@pytest.mark.parametrize("name", RELATIVE)
def test_a_relative_generator_is_the_discriminator_with_roles_swapped(name, pairs):
    real, fake = pairs
    assert torch.equal(LOSSES[name].generator(real, fake), LOSSES[name].discriminator(fake, real))


@given(logits, logits)
def test_the_other_generators_take_over_a_part_of_the_discriminators_loss(real, fake):
    """Fakes that should look real cost as much as real images; Wasserstein's losses are a zero-sum game over fakes."""
    standard, squares, wasserstein = (LOSSES[name] for name in ("standard", "least_squares", "wasserstein"))
    surely_fake = torch.full((3,), -1e4).double()
    assert math.isclose(standard.generator(None, fake), 2 * standard.discriminator(fake, surely_fake), rel_tol=1e-12)
    assert torch.equal(squares.generator(None, fake), squares.discriminator(fake, torch.zeros(3).double()))
    both = wasserstein.discriminator(real, fake) + wasserstein.generator(None, fake)
    assert math.isclose(both, -real.mean(), abs_tol=1e-12)


@given(pairs)
def test_only_wasserstein_discriminators_may_pay_less_than_nothing(pairs):
    assert all(loss.discriminator(*pairs) >= 0 for name, loss in LOSSES.items() if name != "wasserstein")


@given(logits, logits)
@pytest.mark.parametrize("name", [name for name in LOSSES if name != "relativistic_pairing"])
def test_real_and_fake_may_differ_in_number(name, real, fake):
    """Only means matter: repeating each logit changes nothing."""
    loss = LOSSES[name]
    for function in (loss.discriminator, loss.generator):
        assert math.isclose(function(real.repeat(2), fake), function(real, fake), rel_tol=1e-12, abs_tol=1e-12)
        assert math.isclose(function(real, fake.repeat(3)), function(real, fake), rel_tol=1e-12, abs_tol=1e-12)


def test_pairs_need_equal_numbers():
    loss = LOSSES["relativistic_pairing"]
    with pytest.raises(ValueError, match="3 real logits and 1 fake"):
        loss.discriminator(torch.zeros(3), torch.zeros(1))
    with pytest.raises(ValueError, match=r"logits.*pairs"):
        loss.generator(torch.zeros(3), torch.zeros(1))


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_push_the_right_way(name):
    loss = LOSSES[name]
    real, fake = torch.full((2, 4), 0.5).requires_grad_().unbind()
    by_real, by_fake = torch.autograd.grad(loss.discriminator(real, fake), (real, fake))
    assert (by_real < 0).all()
    assert (by_fake > 0).all()
    [by_fake] = torch.autograd.grad(loss.generator(real.detach(), fake), fake)
    assert (by_fake < 0).all()


@pytest.mark.parametrize("size", [1e4, -1e4])
@pytest.mark.parametrize("name", LOSSES)
def test_large_logits_stay_finite(name, size):
    loss = LOSSES[name]
    for function in (loss.discriminator, loss.generator):
        real = torch.tensor([size, 0.0, size], requires_grad=True)
        fake = torch.tensor([-size, size, size], requires_grad=True)
        value = function(real, fake)
        gradients = torch.autograd.grad(value, (real, fake), allow_unused=True, materialize_grads=True)
        assert value.isfinite()
        assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", LOSSES)
def test_relative_generators_need_the_real_logits_and_others_do_not_look(name):
    loss, fake = LOSSES[name], torch.randn(2)
    if loss.is_relative:
        with pytest.raises(ValueError, match="real logits are None"):
            loss.generator(None, fake)
    else:
        assert loss.generator(None, fake) == loss.generator(torch.randn(2), fake)


def shares(name, real, fake):
    return tuple(share.item() for share in accuracies(LOSSES[name], torch.tensor(real), torch.tensor(fake)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("standard", (0.75, 0.5)),  # the threshold is 0
        ("hinge", (0.75, 0.5)),
        ("least_squares", (0.5, 0.75)),  # it is 1/2
        # Real logits are compared with the mean of the fakes, 0.5, and fakes with that of the real ones, 1.
        ("relativistic_hinge", (0.5, 0.75)),
        ("relativistic_pairing", (0.5, 0.75)),
        ("wasserstein", (0.5, 0.75)),
    ],
)
def test_how_often_a_discriminator_is_right(name, expected):
    assert shares(name, [4.0, 0.75, 0.25, -1.0], [-2.0, -1.0, 0.25, 4.75]) == expected


def test_every_loss_has_an_accuracy():
    """Logits at the threshold count as wrong, and a perfect discriminator is perfect under every loss."""
    for name, loss in LOSSES.items():
        border = 0.0 if loss.undecided is None else loss.undecided
        assert shares(name, [border] * 3, [border] * 2) == (0, 0)
        assert shares(name, [9.0, 5.0], [-5.0, -9.0, -7.0]) == (1, 1)
        assert shares(name, [-9.0], [5.0, 9.0]) == (0, 0)


@given(pairs)
@pytest.mark.parametrize("name", LOSSES)
def test_accuracies_are_shares(name, pairs):
    assert all(0 <= share <= 1 for share in accuracies(LOSSES[name], *pairs))


@given(pairs, st.integers(-32, 32))
@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.undecided is None])
def test_where_only_differences_count_a_shift_makes_nobody_wiser(name, pairs, shift):
    real, fake = (logits.round() for logits in pairs)  # whose sums are exact
    if len(real) in (1, 2, 4, 8):  # and whose means are
        moved = accuracies(LOSSES[name], real + shift, fake + shift)
        assert torch.equal(torch.stack(moved), torch.stack(accuracies(LOSSES[name], real, fake)))
