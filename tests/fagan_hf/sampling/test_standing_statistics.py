from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fagan_hf import FAGANPipeline, pipeline
from fagan_hf.models import Generator
from fagan_hf.sampling.images import labels_from_seeds
from fagan_hf.sampling.standing_statistics import has_batch_statistics, recalibrated
from tests.fagan_hf.latent_space.test_walks import conditional_generator
from tests.small import GENERATOR


def norms(generator):
    return [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]


def normed(generator, latents, *labels):
    """Return the output of each batch norm before its scale and shift: [channels, values] each."""
    found = []
    hooks = [
        norm.register_forward_hook(lambda norm, inputs, _: found.append(_normalize(norm, *inputs)))
        for norm in norms(generator)
    ]
    with torch.no_grad():
        generator(latents, *labels)
    for hook in hooks:
        hook.remove()
    return found


def _normalize(norm, feature_map):
    plain = nn.functional.batch_norm(feature_map, norm.running_mean, norm.running_var, eps=0.0)
    return plain.transpose(0, 1).flatten(1)


def measured_generator():
    """Make a generator whose batch statistics fit latents of length 1."""
    generator = Generator(GENERATOR).train()
    for norm in norms(generator):
        norm.momentum = None
    with torch.no_grad():
        generator(torch.randn(2048, 8))
    return generator.eval()


def test_activations_are_normal_again():
    generator = measured_generator()
    latents = 0.3 * torch.randn(2048, 8)
    for mended, broken in zip(normed(recalibrated(generator, 0.3), latents), normed(generator, latents), strict=True):
        torch.testing.assert_close(mended.mean(1), torch.zeros(16), rtol=0, atol=0.1)
        torch.testing.assert_close(mended.var(1), torch.ones(16), rtol=0, atol=0.2)
        assert (broken.var(1) - 1).abs().min() > 0.4


def test_the_original_stays():
    generator = measured_generator().train()
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    copy = recalibrated(generator, 0.3)
    assert copy is not generator
    assert all(torch.equal(before[name], tensor) for name, tensor in generator.state_dict().items())
    assert all(module.training for module in generator.modules())
    assert not any(module.training for module in copy.modules())
    weights = [name for name, _ in generator.named_parameters()]
    assert all(torch.equal(copy.state_dict()[name], before[name]) for name in weights)
    assert not torch.equal(copy.layers[0].batch_norm.running_var, before["layers.0.batch_norm.running_var"])


def test_the_same_every_time():
    generator = measured_generator()
    first = recalibrated(generator, 0.5)
    torch.randn(7)
    again, other = recalibrated(generator, 0.5), recalibrated(generator, 0.6)
    for a, b, c in zip(norms(first), norms(again), norms(other), strict=True):
        assert torch.equal(a.running_mean, b.running_mean)
        assert torch.equal(a.running_var, b.running_var)
        assert not torch.equal(a.running_var, c.running_var)


def test_nothing_to_measure():
    generator = Generator(GENERATOR).eval()
    assert recalibrated(generator, 1.0) is generator
    layers = tuple(
        replace(layer, batch_norm=False) if hasattr(layer, "batch_norm") else layer for layer in GENERATOR.layers
    )
    plain = Generator(replace(GENERATOR, layers=layers)).eval()
    assert not has_batch_statistics(plain)
    assert recalibrated(plain, 0.3) is plain


def test_labels_come_as_in_the_training_data():
    generator = conditional_generator()
    generator.label_frequencies.copy_(torch.tensor([1.0, 0.0, 1.0]))
    copy = recalibrated(generator, 0.1)
    latents, labels = 0.1 * torch.randn(2048, 8), torch.tensor([1.0, 0.0, 1.0]).expand(2048, -1)
    for activations in normed(copy, latents, labels):
        torch.testing.assert_close(activations.mean(1), torch.zeros(16), rtol=0, atol=0.1)
    generator.label_frequencies.fill_(0.5)
    drawn = labels_from_seeds(generator, range(2048))
    means = normed(recalibrated(generator, 0.1), latents, drawn)[0].mean(1)
    torch.testing.assert_close(means, torch.zeros(16), rtol=0, atol=0.1)
    assert normed(copy, latents, drawn)[0].mean(1).abs().max() > 0.2


@pytest.fixture
def measurements(monkeypatch):
    """Count how often the pipeline measures batch statistics."""
    calls = []

    def spy(generator, truncation):
        calls.append(truncation)
        return recalibrated(generator, truncation)

    monkeypatch.setattr(pipeline, "recalibrated", spy)
    return calls


def test_a_pipeline_measures_once(measurements):
    pipe = FAGANPipeline(measured_generator())
    first, again = (pipe(seeds=[3], truncation=0.5, output_type="np").images for _ in range(2))
    assert measurements == [0.5]
    assert np.array_equal(first, again)
    pipe(seeds=[3], truncation=0.6)
    assert measurements == [0.5, 0.6]


def test_changed_weights_are_measured_anew(measurements):
    pipe = FAGANPipeline(measured_generator())
    pipe(seeds=[3], truncation=0.5)
    with torch.no_grad():
        pipe.generator.layers[0].batch_norm.weight.mul_(2)
    changed = pipe(seeds=[3], truncation=0.5, output_type="np").images
    assert measurements == [0.5, 0.5]
    fresh = FAGANPipeline(pipe.generator)(seeds=[3], truncation=0.5, output_type="np").images
    assert np.array_equal(changed, fresh)
