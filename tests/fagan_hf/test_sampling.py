import numpy as np
import pytest
import torch

from fagan_hf.models import Generator
from fagan_hf.sampling import eval_mode, generate_images, latents_from_seeds, sample, to_uint8
from tests.small import GENERATOR


def test_a_seed_is_a_latent_whatever_its_neighbours():
    alone = latents_from_seeds([5], 8)
    assert torch.equal(latents_from_seeds([1, 5, 9], 8)[1:2], alone)
    assert torch.equal(latents_from_seeds([5], 8, truncation=0.5), alone / 2)
    assert not torch.equal(latents_from_seeds([6], 8), alone)


def test_the_latent_of_seed_5_is_for_ever():
    """Published pictures must come back: this number may never change."""
    assert latents_from_seeds([5], 8)[0, :3].tolist() == pytest.approx([-0.48678, -0.60383, -0.55814], abs=1e-4)


@pytest.mark.parametrize("preset", ["fagan-32", "fagan-classic-64"])
def test_the_batch_does_not_matter(preset):
    generator = Generator.from_preset(preset)
    for name, parameter in generator.named_parameters():
        if name.endswith(("alpha", "gamma")):
            parameter.data.fill_(0.3)
    latents = latents_from_seeds(range(5), generator.config.latent_dim)
    together = torch.cat(list(sample(generator, latents, batch_size=5)))
    alone = torch.cat(list(sample(generator, latents, batch_size=1)))
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_the_generator_comes_back_as_it_was():
    generator = Generator(GENERATOR).train()
    generator.layers[0].eval()
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    modes = [module.training for module in generator.modules()]
    generate_images(generator, latents_from_seeds([1], 8))
    assert [module.training for module in generator.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in generator.state_dict().items())
    with pytest.raises(RuntimeError), eval_mode(generator):
        raise RuntimeError
    assert generator.training


def test_uint8():
    levels = torch.arange(256) / 127.5 - 1
    images = levels.view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert np.array_equal(to_uint8(images)[0, :, :, 0].ravel(), np.arange(256))
    assert to_uint8(torch.tensor([-9.0, 9.0, 0.0]).view(1, 3, 1, 1)).ravel().tolist() == [0, 255, 128]


def test_a_long_job_shows_its_progress(capfd):
    generator = Generator(GENERATOR)
    generate_images(generator, torch.randn(300, 8))
    assert "Generating: 100%" in capfd.readouterr().err
    generate_images(generator, torch.randn(300, 8), progress=False)
    generate_images(generator, torch.randn(30, 8))
    assert capfd.readouterr().err == ""


def test_no_images():
    assert generate_images(Generator(GENERATOR), latents_from_seeds([], 8)).shape == (0, 8, 8, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: latents_from_seeds([-1], 8), "seed is -1; it must be a whole number from 0"),
        (lambda: latents_from_seeds([1.5], 8), "seed is 1.5"),
        (lambda: latents_from_seeds([True], 8), "seed is True"),
        (lambda: latents_from_seeds([1], 8, truncation=0), "truncation is 0"),
        (lambda: latents_from_seeds([1], 8, truncation=float("nan")), "truncation is nan"),
        (lambda: generate_images(Generator(GENERATOR), torch.randn(2, 8), batch_size=0), "batch_size is 0"),
        (lambda: generate_images(Generator(GENERATOR), torch.randn(2, 9)), r"latents are \[2, 9\]; they must be"),
    ],
)
def test_nonsense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
