import numpy as np
import pytest
import torch

from fagan_hf.architectures.conditioning import with_labels
from fagan_hf.models import Generator
from fagan_hf.sampling import images as sampling
from fagan_hf.sampling.images import (
    eval_mode,
    fitting_batch_size,
    generate_images,
    latents_from_seeds,
    sample,
    to_uint8,
)
from tests.small import DISCRIMINATOR, GENERATOR, with_gates


def test_a_seed_is_a_latent_whatever_its_neighbors():
    alone = latents_from_seeds([5], 8)
    assert torch.equal(latents_from_seeds([1, 5, 9], 8)[1:2], alone)
    assert torch.equal(latents_from_seeds([5], 8, truncation=0.5), alone / 2)
    assert not torch.equal(latents_from_seeds([6], 8), alone)


def test_the_latent_of_seed_5_is_for_ever():
    """Published images must stay reproducible: this number must never change."""
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


def sizes(batches):
    return [len(batch) for batch in batches]


def test_batches_are_as_large_as_memory_allows(monkeypatch):
    generator, latents = Generator(GENERATOR), torch.randn(150, 8)
    assert sizes(sample(generator, latents)) == [1, 64, 64, 21]  # every machine that runs this has enough memory
    asked = []
    monkeypatch.setattr(sampling, "fitting_batch_size", lambda device, num_bytes: asked.append(num_bytes) or 100)
    assert sizes(sample(generator, latents)) == [1, 100, 49]
    assert sizes(sample(generator, latents, batch_size=60)) == [60, 60, 30]
    assert sizes(sample(generator, latents[:1])) == [1]
    assert sizes(sample(generator, latents[:0])) == []
    assert len(asked) == 2


def test_an_image_takes_what_its_modules_put_out(monkeypatch):
    """Counted by hand; weights returned by spectral norm don't count for the image."""
    asked = []
    monkeypatch.setattr(sampling, "fitting_batch_size", lambda device, num_bytes: asked.append(num_bytes) or 1)
    list(sample(Generator(GENERATOR), torch.randn(1, 8)))
    full = 16 * (1 + 1 + 16 * 6)  # query, key; value, residual, batch norm, both activations and the blend
    itself = 16 * (2 + 2 + 16 * 3)  # query, key; value, activation and the sum
    last = 64 * (2 + 2 + 3 * 5)  # as the first, without batch norm
    others = 2 * 64 * 3  # the identity in the place of that batch norm, and the whole network
    assert asked == [4 * (full + itself + last + others)]


def test_pictures_do_not_depend_on_memory(monkeypatch):
    names = ("beard", "hair=red", "hair=black")
    generator = with_gates(Generator(with_labels((GENERATOR, DISCRIMINATOR), names, "projection")[0]))
    latents, labels = torch.randn(9, 8), torch.rand(9, 3)
    expected = torch.cat(list(sample(generator, latents, labels, batch_size=9)))
    for free in (0, 10**5, 10**9, None):
        monkeypatch.setattr(sampling, "_free_memory", lambda device, free=free: free)
        torch.testing.assert_close(torch.cat(list(sample(generator, latents, labels))), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("device", "free", "expected"),
    [
        ("cpu", 0, 1),  # the first image was possible, so 1 is
        ("cpu", 4 * 10**6 * 20, 20),  # half of it, each image counted twice
        ("cpu", 10**12, 64),
        ("cuda", 10**12, 512),
        ("cuda", 4 * 10**6 * 200, 200),
        ("mps", None, 64),
    ],
)
def test_how_many_images_fit(monkeypatch, device, free, expected):
    monkeypatch.setattr(sampling, "_free_memory", lambda device: free)
    assert fitting_batch_size(torch.device(device), 10**6) == expected


def test_free_memory_is_what_the_machine_says():
    psutil = pytest.importorskip("psutil")
    assert sampling._free_memory(torch.device("cpu")) == pytest.approx(psutil.virtual_memory().available, rel=0.2)


@pytest.mark.parametrize(
    ("batch_size", "expected"), [(None, [1, 4, 4, 4, 4, 3]), (16, [4, 4, 4, 4, 4]), (5, [5, 5, 5, 5]), (1, [1] * 20)]
)
def test_out_of_memory_halves_the_batch(monkeypatch, batch_size, expected):
    """As raised by an accelerator with memory for five images."""

    class Small(Generator):
        def forward(self, latents, labels=None):
            if len(latents) > 5:
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(latents, labels)

    monkeypatch.setattr(sampling, "_free_memory", lambda device: None)
    generator, latents = with_gates(Small(GENERATOR)), torch.randn(20, 8)
    batches = list(sample(generator, latents, batch_size=batch_size))
    assert sizes(batches) == expected
    alone = torch.cat(list(sample(generator, latents, batch_size=1)))
    torch.testing.assert_close(torch.cat(batches), alone, rtol=0, atol=1e-6)


def test_one_image_that_does_not_fit_is_an_error():
    class Smaller(Generator):
        def forward(self, latents, labels=None):
            raise torch.OutOfMemoryError("out of memory")

    for batch_size in (None, 4):
        with pytest.raises(torch.OutOfMemoryError):
            list(sample(Smaller(GENERATOR), torch.randn(4, 8), batch_size=batch_size))


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
