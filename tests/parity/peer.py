"""Comparison of gradients with the original, attn-gan-pytorch 1.2.3."""

import torch
from torch import nn

from benchmarks.peer import paired_parameters


def assert_equal_gradients(theirs: nn.Module, ours: nn.Module) -> None:
    """Compare the gradients of all parameters, taking into account that some are zero up to rounding."""
    pairs = paired_parameters(theirs, ours)
    assert len(pairs) == len(list(ours.parameters()))
    for their_parameter, our_parameter in pairs:
        expected = their_parameter.grad.view_as(our_parameter)
        torch.testing.assert_close(our_parameter.grad, expected, rtol=1e-9, atol=1e-9)
