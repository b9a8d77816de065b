import copy

import pytest
import torch
from torch import nn

from fagan_hf.layers import (
    SpectralNorm,
    hold_spectral_norms,
    refresh_spectral_norms,
    spectral_norm,
    spectral_norms,
)


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("module", [nn.Conv2d(6, 4, 3), nn.ConvTranspose2d(6, 4, 3)])
def test_the_normalized_weight_has_norm_one(module, dim):
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


def vectors(network):
    return {name: buffer.clone() for name, buffer in network.named_buffers() if name.endswith((".u", ".v"))}


def test_held_they_move_when_they_are_told_to_and_not_by_passes():
    network = nn.Sequential(spectral_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4), spectral_norm(nn.Conv2d(4, 2, 3)))
    assert len(hold_spectral_norms(network)) == 2
    assert network[1].training
    before, images = vectors(network), torch.randn(2, 3, 8, 8)
    network(images), network(images)
    assert all(torch.equal(before[name], vector) for name, vector in vectors(network).items())
    refresh_spectral_norms(network, iterations=1)
    moved = vectors(network)
    assert not any(torch.equal(before[name], vector) for name, vector in moved.items())
    network.train()(images)  # lets go
    assert not any(torch.equal(moved[name], vector) for name, vector in vectors(network).items())


def test_a_held_pass_gives_the_gradient_of_a_free_one():
    free = spectral_norm(nn.Conv2d(3, 4, 3).double())
    held = copy.deepcopy(free)
    hold_spectral_norms(held)
    refresh_spectral_norms(held, iterations=1)
    images = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    for module in (free, held):
        module(images).square().sum().backward()
    assert torch.equal(free.parametrizations.weight.original.grad, held.parametrizations.weight.original.grad)


def test_estimates_by_the_names_of_layers():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(spectral_norm(nn.Conv2d(4, 2, 3)))).double()
    refresh_spectral_norms(network, iterations=500)
    before = vectors(network)
    [(name, norm)] = spectral_norms(network).items()
    weight = network[1][0].parametrizations.weight.original
    assert name == "1.0"
    assert norm.item() == pytest.approx(torch.linalg.matrix_norm(weight.flatten(1), 2).item())
    assert not norm.requires_grad
    assert all(torch.equal(before[name], vector) for name, vector in vectors(network).items())
    assert spectral_norms(nn.Conv2d(3, 4, 3)) == {}
