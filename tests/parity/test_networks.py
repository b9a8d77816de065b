"""The whole classic networks against the original's, weights copied."""

import pytest
import torch
from attn_gan_pytorch import CustomLayers
from torch import nn

from benchmarks.peer import copy_weights, peer_layer, peer_modules, wake
from fagan_hf.models import Discriminator, Generator
from tests.parity.conf import conf_text
from tests.parity.peer import assert_equal_gradients

CLASSICS = ("fagan-classic-64", "sagan-classic-64", "sample-2-classic-64", "sample-3-classic-64")


@pytest.mark.parametrize("preset", CLASSICS)
@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_classic_network_equals_the_original(network, preset):
    ours = network.from_preset(preset).double().train()
    theirs = wake(nn.Sequential(*map(peer_layer, ours.config.layers)).double()).train()
    copy_weights(theirs, ours)
    shape = (3, 128, 1, 1) if network is Generator else (3, 3, 64, 64)
    inputs = torch.randn(shape, dtype=torch.float64)
    their_inputs, our_inputs = (inputs.clone().requires_grad_() for _ in range(2))
    expected, result = theirs(their_inputs).squeeze(), ours(our_inputs).squeeze()
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)

    expected.sum().backward()
    result.sum().backward()
    torch.testing.assert_close(our_inputs.grad, their_inputs.grad, rtol=1e-9, atol=1e-11)
    assert_equal_gradients(theirs, ours)


@pytest.mark.parametrize("preset", CLASSICS)
@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_classic_network_has_the_original_number_of_weights(network, preset):
    ours = network.from_preset(preset)
    theirs = nn.Sequential(*peer_modules(conf_text(ours.config.layers)))
    # Its singular vectors are parameters too, which are not trained; and it makes batch norms that it does not use.
    expected = sum(each.numel() for each in theirs.parameters() if each.requires_grad)
    for module in theirs.modules():
        if isinstance(module, CustomLayers.FullAttention) and not module.use_batch_norm:
            expected -= sum(each.numel() for each in module.batch_norm.parameters())
    assert sum(each.numel() for each in ours.parameters()) == expected


@pytest.mark.parametrize(("network", "parameters"), [(Generator, 8_093_655), (Discriminator, 3_769_355)])
def test_fagan_has_the_number_of_weights_that_was_counted(network, parameters):
    assert sum(each.numel() for each in network.from_preset("fagan-classic-64").parameters()) == parameters
