"""The whole classic networks against the original's, weights copied."""

import pytest
import torch
from torch import nn

from fagan_hf.models import Discriminator, Generator
from tests.parity.peer import copy_weights, peer_layer, wake


@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_classic_network_equals_the_original(network):
    ours = network.from_preset("fagan-classic-64").double().train()
    theirs = wake(nn.Sequential(*map(peer_layer, ours.config.layers)).double()).train()
    copy_weights(theirs, ours)
    shape = (4, 128, 1, 1) if network is Generator else (4, 3, 64, 64)
    inputs = torch.randn(shape, dtype=torch.float64)
    their_inputs, our_inputs = (inputs.clone().requires_grad_() for _ in range(2))
    expected, result = theirs(their_inputs).squeeze(), ours(our_inputs).squeeze()
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)

    expected.sum().backward()
    result.sum().backward()
    torch.testing.assert_close(our_inputs.grad, their_inputs.grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("network", "parameters"), [(Generator, 8_093_655), (Discriminator, 3_769_355)])
def test_classic_network_has_the_original_number_of_weights(network, parameters):
    assert sum(each.numel() for each in network.from_preset("fagan-classic-64").parameters()) == parameters
