from copy import deepcopy
from importlib import import_module

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from fagan_hf.layers import Dropout, attention_kernel
from fagan_hf.models.discriminator import Discriminator
from fagan_hf.penalties import (
    approximate_gradient_penalty,
    wasserstein_gradient_penalty,
    zero_centered_gradient_penalty,
)
from tests.small import DISCRIMINATOR


class Linear(torch.nn.Module):
    """A critic that computes the dot product of an image with a weight, and counts the calls."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(3, 2, 2, dtype=dtype))
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        return (self.weight * images).flatten(1).sum(1)


def images(batch=4, size=2, dtype=torch.float64):
    return torch.rand(batch, 3, size, size, dtype=dtype) * 2 - 1


def zero_centered(critic, real):
    return zero_centered_gradient_penalty(critic, real)


def wasserstein(critic, real):
    return wasserstein_gradient_penalty(critic, real, real.flip(0), torch.rand(len(real)))


def approximate(critic, real):
    return approximate_gradient_penalty(critic, real, torch.randn(real.shape))


PENALTIES = [zero_centered, wasserstein, approximate]


def test_the_penalties_of_a_linear_critic():
    critic, real, fake, noise = Linear(), images(), images(), torch.randn(4, 3, 2, 2, dtype=torch.float64)
    squared = critic.weight.square().sum()
    torch.testing.assert_close(zero_centered_gradient_penalty(critic, real), squared)
    mix = torch.rand(4, dtype=torch.float64)
    torch.testing.assert_close(wasserstein_gradient_penalty(critic, real, fake, mix), (squared.sqrt() - 1).square())
    expected = (critic.weight * noise).flatten(1).sum(1).square().mean()
    torch.testing.assert_close(approximate_gradient_penalty(critic, real, noise, sigma=0.1), expected)


def test_the_approximate_penalty_has_the_exact_one_for_its_mean():
    critic = Linear()
    noise = torch.randn(100_000, 3, 2, 2, dtype=torch.float64)
    ours = approximate_gradient_penalty(critic, images(1).expand_as(noise), noise)
    assert ours.item() == pytest.approx(critic.weight.square().sum().item(), rel=0.03)  # 7 standard errors


def test_the_penalties_teach_a_linear_critic():
    critic, real, mix = Linear(), images(), torch.rand(4, dtype=torch.float64)
    [by_zero_centered] = torch.autograd.grad(zero_centered_gradient_penalty(critic, real), critic.weight)
    torch.testing.assert_close(by_zero_centered, 2 * critic.weight.detach())
    [by_wasserstein] = torch.autograd.grad(wasserstein_gradient_penalty(critic, real, -real, mix), critic.weight)
    length = critic.weight.detach().norm()
    torch.testing.assert_close(by_wasserstein, 2 * (length - 1) / length * critic.weight.detach())


def test_the_penalties_of_a_quadratic_critic():
    """The gradient of half the sum of squares is the image itself, so that at an interpolate is the interpolate."""

    def critic(images):
        return images.square().flatten(1).sum(1) / 2

    real, fake, mix = images(), images(), torch.rand(4, dtype=torch.float64)
    expected = real.square().flatten(1).sum(1).mean()
    torch.testing.assert_close(zero_centered_gradient_penalty(critic, real), expected)
    mixed = mix.view(-1, 1, 1, 1) * real + (1 - mix).view(-1, 1, 1, 1) * fake
    expected = (mixed.flatten(1).norm(dim=1) - 1).square().mean()
    torch.testing.assert_close(wasserstein_gradient_penalty(critic, real, fake, mix), expected)
    noise = torch.randn_like(real)
    expected = (real * noise + 0.005 * noise.square()).flatten(1).sum(1).square().mean()
    torch.testing.assert_close(approximate_gradient_penalty(critic, real, noise, sigma=0.01), expected)


def test_a_flat_critic_gets_a_finite_gradient():
    critic = Linear()
    critic.weight.data.zero_()
    penalty = wasserstein(critic, images())
    penalty.backward()
    assert penalty == 1
    assert torch.equal(critic.weight.grad, torch.zeros_like(critic.weight))


def discriminator(training=False):
    network = Discriminator(DISCRIMINATOR).double().train(training)
    network.layers[0].alpha.data.fill_(0.4)
    return network


def plain_attention(query, key, value, heads):
    assert heads == 1
    weights = (query.flatten(2).mT @ key.flatten(2)).softmax(-1)
    return (value.flatten(2) @ weights.mT).unflatten(2, value.shape[2:])


def weight_gradients(penalty, network):
    # A constant added to the logits doesn't change their gradient, so the last bias has none.
    return torch.autograd.grad(penalty, network.parameters(), allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("training", [False, True])
def test_it_is_right_for_a_discriminator_and_its_weights(monkeypatch, training):
    network, real = discriminator(training), images(3, 8)
    reference = deepcopy(network)
    penalty = zero_centered_gradient_penalty(network, real)
    gradients = weight_gradients(penalty, network)

    # By its path, because the package has a function of that name.
    monkeypatch.setattr(import_module("fagan_hf.layers.attention"), "attention", plain_attention)
    reference(real)  # moves the estimated spectral norms, where in training, as the penalty's one call has done
    reference.eval()
    squares = []
    for image in real:
        pixels = image[None].requires_grad_()
        [gradient] = torch.autograd.grad(reference(pixels).sum(), pixels, create_graph=True)
        squares.append(gradient.square().sum())
    expected = sum(squares) / len(squares)
    torch.testing.assert_close(penalty, expected)
    torch.testing.assert_close(gradients, weight_gradients(expected, reference))


def test_it_falls_as_its_gradient_says():
    network, real = discriminator(), images(3, 8)
    parameters = list(network.parameters())
    directions = [torch.randn_like(parameter) for parameter in parameters]
    gradients = weight_gradients(zero_centered_gradient_penalty(network, real), network)
    slope = sum((gradient * direction).sum() for gradient, direction in zip(gradients, directions, strict=True))

    def penalty_at(step):
        moved = deepcopy(network)
        with torch.no_grad():
            torch._foreach_add_(list(moved.parameters()), directions, alpha=step)
        return zero_centered_gradient_penalty(moved, real).detach()

    step = 1e-6
    torch.testing.assert_close((penalty_at(step) - penalty_at(-step)) / (2 * step), slope, rtol=1e-5, atol=0)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_images_are_left_alone(penalty):
    generated = images().requires_grad_()
    penalty(Linear(), generated).backward()
    assert generated.grad is None
    assert generated.requires_grad
    real = images()
    penalty(Linear(), real).backward()
    assert not real.requires_grad


@pytest.mark.parametrize(("penalty", "calls"), [(zero_centered, 1), (wasserstein, 1), (approximate, 2)])
def test_how_often_the_discriminator_is_called(penalty, calls):
    critic = Linear()
    penalty(critic, images())
    assert critic.calls == calls


@pytest.mark.parametrize("penalty", PENALTIES)
def test_neither_autocast_nor_half_precision_images_make_it_less_precise(penalty):
    network, real = discriminator().float(), images(3, 8, torch.bfloat16)
    results = []
    for is_enabled, given in ((False, real.float()), (True, real.float()), (False, real)):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=is_enabled):
            results.append(penalty(network, given))
    assert results[0] == results[1] == results[2]


def test_spectral_norm_stands_still_between_the_two_calls_of_the_approximate_penalty():
    """An update of its estimate changes the logits more than the finite difference of the images does."""
    network, real = discriminator(training=True), images(3, 8)
    norm = network.layers[-1].conv.parametrizations.weight[0]
    iterations = []
    norm.register_forward_hook(lambda *_: iterations.append(1))
    same_step = torch.zeros_like(real)
    assert approximate_gradient_penalty(network, real, same_step) == 0
    assert len(iterations) == 1
    assert not parametrize._cache_enabled


def test_only_the_exact_penalties_leave_the_fused_kernels():
    class Count(TorchFunctionMode):
        fused = 0

        def __torch_function__(self, function, types, args=(), kwargs=None):
            self.fused += function is scaled_dot_product_attention
            return function(*args, **(kwargs or {}))

    for penalty, expected in zip(PENALTIES, (0, 0, 2), strict=True):
        with Count() as count, attention_kernel("fused"):
            penalty(discriminator(), images(2, 8))
        assert count.fused == expected


def test_shapes_and_steps_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\[4, 3, 2, 2\] and fake images \[3, 3, 2, 2\]"):
        wasserstein_gradient_penalty(Linear(), images(4), images(3), torch.rand(4))
    with pytest.raises(ValueError, match=r"noise \[1, 3, 2, 2\]"):
        approximate_gradient_penalty(Linear(), images(4), images(1))
    for sigma in (0.0, -0.1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="positive and finite"):
            approximate_gradient_penalty(Linear(), images(), images(), sigma=sigma)


def test_dropout_drops_the_same_in_both_calls():
    """Otherwise the masks differ, and sigma amplifies the difference; the random state afterward is as usual."""
    critic = torch.nn.Sequential(Dropout(probability=0.5), Linear()).train()
    real = images()
    assert approximate_gradient_penalty(critic, real, torch.zeros_like(real)).item() == 0
    torch.manual_seed(3)
    approximate_gradient_penalty(critic, real, torch.zeros_like(real))
    first = torch.rand(1)
    torch.manual_seed(3)
    critic(real)
    assert torch.equal(first, torch.rand(1))
