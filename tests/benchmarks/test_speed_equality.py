"""Speed is compared only if both sides compute the same."""

import dataclasses

import pytest
import torch

from benchmarks.speed_of.equality import check_equal, check_tolerances
from benchmarks.speed_of.layer import Shape, Work, check_equal_layers
from benchmarks.speed_of.our_step import Ours
from benchmarks.speed_of.peer_step import Peer
from tests.small import DISCRIMINATOR, GENERATOR

SHAPE = Shape(16, 8, positions=64, batch=2)


def pair(their_discriminator=DISCRIMINATOR):
    ours = Ours((GENERATOR, DISCRIMINATOR), "hinge", batch=4)
    return ours, Peer((GENERATOR, their_discriminator), "hinge", batch=4)


def test_equal_networks_pass():
    ours, theirs = pair()
    found = check_equal(ours, theirs)
    assert 0 < found["output_difference"] < 1e-5
    assert 0 < found["gradient_difference"] < 1e-4
    gradients = [each.grad for network in (ours.generator, theirs.discriminator) for each in network.parameters()]
    assert gradients == [None] * len(gradients)


def test_another_function_fails():
    first, *others = DISCRIMINATOR.layers
    layers = (dataclasses.replace(first, activation="leaky_relu(0.21)"), *others)
    with pytest.raises(RuntimeError, match="our results differ from the peer's"):
        check_equal(*pair(dataclasses.replace(DISCRIMINATOR, layers=layers)))


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_another_gradient_fails(network):
    ours, theirs = pair()
    parameter = max(getattr(ours, network).parameters(), key=torch.numel)  # not a gate, whose gradient may be small
    parameter.register_hook(lambda gradient: 1.1 * gradient)
    with pytest.raises(RuntimeError, match="our results differ from the peer's"):
        check_equal(ours, theirs)


def test_equal_layers_pass_and_others_fail():
    ours, theirs = (Work(side, SHAPE, "cpu") for side in ("ours", "peer"))
    assert check_equal_layers(ours, theirs)["output_difference"] < 1e-5
    ours.layer.activation = torch.nn.ReLU()
    with pytest.raises(RuntimeError, match="our results differ from the peer's"):
        check_equal_layers(ours, theirs)


def test_no_number_is_no_equality():
    with pytest.raises(RuntimeError, match="nan"):
        check_tolerances({"output_difference": float("nan"), "gradient_difference": 0.0})
