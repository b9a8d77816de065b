"""Our layers against the original's, in float64: outputs and gradients from a fresh state, weights copied."""

import pytest
import torch

from benchmarks.peer import copy_weights, peer_layer, wake
from fagan_hf.architectures.specs import (
    BatchNormSpec,
    ConvSpec,
    ConvTransposeSpec,
    DropoutSpec,
    FullAttentionSpec,
    SelfAttentionSpec,
)
from fagan_hf.layers import build_layer
from tests.parity.peer import assert_equal_gradients

HALVE = {"kernel_size": 4, "stride": 2, "padding": 1}
LEAKY = "leaky_relu(0.3)"
SPECS = {
    "full": FullAttentionSpec(in_channels=16, out_channels=24, **HALVE, activation=LEAKY),
    "full, squeezed by 1": FullAttentionSpec(in_channels=3, out_channels=16, **HALVE, squeeze_factor=1),
    "full, without batch norm": FullAttentionSpec(in_channels=16, out_channels=24, **HALVE, batch_norm=False),
    "full, without spectral norm": FullAttentionSpec(in_channels=16, out_channels=8, **HALVE, spectral_norm=False),
    "full, transposed": FullAttentionSpec(in_channels=16, out_channels=8, **HALVE, transposed=True, activation=LEAKY),
    "full, 5x5 kernel": FullAttentionSpec(in_channels=16, out_channels=8, kernel_size=5, padding=2),
    "full, to the image": FullAttentionSpec(
        in_channels=16, out_channels=3, **HALVE, transposed=True, activation="tanh"
    ),
    "self": SelfAttentionSpec(in_channels=16),
    "self, squeezed by 2": SelfAttentionSpec(in_channels=16, squeeze_factor=2),
    "self, activated": SelfAttentionSpec(in_channels=16, activation=LEAKY),
    "self, without bias": SelfAttentionSpec(in_channels=16, bias=False),
    "conv": ConvSpec(in_channels=16, out_channels=24, **HALVE, activation="leaky_relu(0.1)"),
    "conv, transposed": ConvTransposeSpec(in_channels=16, out_channels=24, **HALVE, batch_norm=True, activation="relu"),
    "conv, to a probability": ConvSpec(in_channels=16, out_channels=1, **HALVE, activation="sigmoid"),
    "batch norm": BatchNormSpec(in_channels=16),
    "dropout": DropoutSpec(probability=0.4),
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_layer_equals_the_original(spec, training):
    theirs = wake(peer_layer(spec).double()).train(training)
    ours = build_layer(spec).double().train(training)
    copy_weights(theirs, ours)
    in_channels = 16 if spec.channels is None else spec.channels[0]
    feature_map = torch.randn(2, in_channels, 12, 12, dtype=torch.float64)
    their_input, our_input = (feature_map.clone().requires_grad_() for _ in range(2))
    torch.manual_seed(1)  # for dropout, here and below
    expected = theirs(their_input)
    if not training:  # their singular vectors change even in eval mode: ours are copied afterward
        copy_weights(theirs, ours)
    torch.manual_seed(1)
    result = ours(our_input)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)

    upstream = torch.randn_like(expected)
    expected.backward(upstream)
    result.backward(upstream)
    torch.testing.assert_close(our_input.grad, their_input.grad, rtol=0, atol=1e-11)
    assert_equal_gradients(theirs, ours)


def test_the_gate_matters():
    """With gates of 0, a parity test would compare convolutions only."""
    theirs = wake(peer_layer(SPECS["full"]))
    assert abs(theirs[0].gamma.item()) > 1e-3
