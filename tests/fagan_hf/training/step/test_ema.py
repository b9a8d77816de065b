import pytest
import torch

from fagan_hf.models import Generator
from fagan_hf.training.step.ema import AveragedGenerator
from tests.small import GENERATOR


def shifted(generator, amount):
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter += amount


def test_the_half_life_is_one():
    generator = Generator(GENERATOR)
    averaged = AveragedGenerator(generator, half_life_images=100)
    before = [parameter.clone() for parameter in averaged.model.parameters()]
    shifted(generator, 1)
    for _ in range(10):
        averaged.update(generator, batch_size=10, images_seen=10**6)
    for parameter, old in zip(averaged.model.parameters(), before, strict=True):
        torch.testing.assert_close(parameter, old + 0.5)


def test_a_young_average_follows_closely():
    generator = Generator(GENERATOR)
    averaged = AveragedGenerator(generator, half_life_images=10**6, ramp=0.05)
    shifted(generator, 1)
    averaged.update(generator, batch_size=32, images_seen=32)
    for parameter, trained in zip(averaged.model.parameters(), generator.parameters(), strict=True):
        torch.testing.assert_close(parameter, trained, atol=1e-5, rtol=0)


def test_refresh_measures_norms_and_statistics_of_the_averaged_weights():
    generator = Generator(GENERATOR)
    averaged = AveragedGenerator(generator, half_life_images=100)
    shifted(averaged.model, 0.3)
    averaged.refresh(generator, seed=0)
    layer = averaged.model.layers[0]
    matrix = layer.residual.weight.flatten(1)
    assert torch.linalg.matrix_norm(matrix, 2).item() == pytest.approx(1, abs=0.01)
    latents = torch.randn(4096, 8)
    convolved = layer.residual(latents[..., None, None])
    torch.testing.assert_close(layer.batch_norm.running_mean, convolved.mean((0, 2, 3)), atol=0.1, rtol=0.1)
    torch.testing.assert_close(layer.batch_norm.running_var, convolved.var((0, 2, 3)), atol=0.1, rtol=0.2)
    assert not any(module.training for module in averaged.model.modules())
    assert layer.batch_norm.momentum == 0.1


def test_refresh_twice_is_the_same():
    """The saved model must not depend on how often a grid was generated before."""
    generator = Generator(GENERATOR).train()
    averaged = AveragedGenerator(generator, half_life_images=100)
    generator(torch.randn(4, 8))
    averaged.refresh(generator, seed=0)
    before = {name: tensor.clone() for name, tensor in averaged.model.state_dict().items()}
    averaged.refresh(generator, seed=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in averaged.model.state_dict().items())
