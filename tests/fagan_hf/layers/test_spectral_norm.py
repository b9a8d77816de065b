import pytest
import torch
from torch import nn

from fagan_hf.layers import SpectralNorm, refresh_spectral_norms, spectral_norm


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("module", [nn.Conv2d(6, 4, 3), nn.ConvTranspose2d(6, 4, 3)])
def test_the_normalised_weight_has_norm_one(module, dim):
    module = spectral_norm(type(module)(6, 4, 3).double(), dim)
    refresh_spectral_norms(module, iterations=500)
    matrix = module.eval().weight.movedim(dim, 0).flatten(1)
    assert torch.linalg.matrix_norm(matrix, 2).item() == pytest.approx(1, abs=1e-6)


def test_eval_mode_never_moves_it():
    module = spectral_norm(nn.Conv2d(3, 4, 3)).eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    images = torch.randn(2, 3, 8, 8)
    first = module(images)
    assert torch.equal(module(images), first)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_training_mode_moves_it_once_a_call_v_first():
    module = nn.Linear(5, 3, bias=False).double()
    weight = module.weight.detach().clone()
    norm = SpectralNorm(weight)
    u, v = norm.u.clone(), norm.v.clone()
    norm(weight)
    expected_v = torch.nn.functional.normalize(weight.T @ u, dim=0)
    expected_u = torch.nn.functional.normalize(weight @ expected_v, dim=0)
    torch.testing.assert_close(norm.v, expected_v)
    torch.testing.assert_close(norm.u, expected_u)
    assert not torch.allclose(norm.v, v)


def test_two_calls_before_the_backward_pass():
    """A discriminator sees real and fake before one backward pass: the first call's vectors must still be there."""
    module = spectral_norm(nn.Conv2d(3, 4, 3).double())
    first, second = torch.randn(2, 1, 3, 5, 5, dtype=torch.float64)
    (module(first).sum() + module(second).sum()).backward()
    both = module.parametrizations.weight.original.grad.clone()
    assert torch.isfinite(both).all()
    assert both.abs().max() > 0


def test_the_vectors_are_saved_and_not_trained():
    module = spectral_norm(nn.Conv2d(3, 4, 3))
    assert {name for name, _ in module.named_parameters()} == {"bias", "parametrizations.weight.original"}
    assert "parametrizations.weight.0.u" in module.state_dict()


def test_autocast_does_not_coarsen_it():
    module = spectral_norm(nn.Conv2d(3, 4, 3))
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coarse = module.weight
    module.load_state_dict(state)
    assert torch.equal(module.weight, coarse)
