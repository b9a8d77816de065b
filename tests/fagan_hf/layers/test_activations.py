import pytest
import torch

from fagan_hf.layers import build_activation

TEXTS = ["identity", "relu", "leaky_relu(0.2)", "leaky_relu(0)", "leaky_relu(-0.1)", "tanh", "sigmoid", "silu"]


@pytest.mark.parametrize("text", TEXTS)
def test_overwriting_changes_no_result_and_no_derivative(text):
    """First and second derivatives, after an operation whose output may be overwritten."""
    inputs = torch.randn(50, dtype=torch.float64)
    found = []
    for may_overwrite in (False, True):
        x = inputs.clone().requires_grad_()
        out = build_activation(text, may_overwrite=may_overwrite)(2 * x)
        [first] = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        [second] = torch.autograd.grad(first.square().sum(), x)
        found.append((out, first, second))
    for plain, other in zip(*found, strict=True):
        assert torch.equal(plain, other)


@pytest.mark.parametrize("text", TEXTS)
def test_what_came_in_stays_unless_it_may_go(text):
    x = torch.randn(50)
    before = x.clone()
    build_activation(text)(x)
    assert torch.equal(x, before)
    is_same = build_activation(text, may_overwrite=True)(x).data_ptr() == x.data_ptr()
    assert is_same == (text in ("identity", "relu", "leaky_relu(0.2)"))
