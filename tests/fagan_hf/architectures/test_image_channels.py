"""Networks for grayscale, RGB and RGBA images."""

import pytest
import torch

from fagan_hf.architectures.conditioning import with_image_channels, with_labels
from fagan_hf.architectures.presets import PRESETS
from fagan_hf.models import Discriminator, Generator


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_preset_takes_every_form(preset, channels):
    original = PRESETS[preset]
    changed = with_image_channels(original, channels)
    assert [config.image_channels for config in changed] == [channels] * 2
    assert (changed == original) == (channels == 3)
    assert with_image_channels(changed, 3) == original
    assert all(type(config).from_dict(config.to_dict()) == config for config in changed)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("preset", ["fagan-32", "fagan-classic-64", "dcgan-64"])
def test_networks_work_on_them(preset, channels):
    generator_config, discriminator_config = with_image_channels(PRESETS[preset], channels)
    generator, discriminator = Generator(generator_config), Discriminator(discriminator_config)
    size = generator_config.image_size
    images = generator(torch.randn(2, generator_config.latent_dim))
    assert images.shape == (2, channels, size, size)
    assert discriminator(images).shape == (2,)
    with pytest.raises(ValueError, match=rf"they must be \[batch, {channels}, {size}, {size}\]"):
        discriminator(torch.zeros(2, 3, size, size))


@pytest.mark.parametrize("conditioning", ["projection", "concatenation"])
def test_labels_come_afterwards_or_before(conditioning):
    names = ("hair=red", "hair=blue")
    changed = with_labels(with_image_channels(PRESETS["fagan-32"], 4), names, conditioning)
    assert [config.image_channels for config in changed] == [4, 4]
    assert with_image_channels(with_labels(PRESETS["fagan-32"], names, conditioning), 4) == changed


def test_labels_that_enter_with_the_image():
    generator, discriminator = with_labels(PRESETS["fagan-32"], (), "concatenation")
    early = type(discriminator)(image_size=32, layers=discriminator.layers, labels_at=-len(discriminator.layers))
    changed = with_labels((generator, early), ("a", "b"), "concatenation")
    assert changed[1].layers[0].channels[0] == 5
    assert changed[1].image_channels == 3
    gray = with_image_channels(changed, 1)
    assert gray[1].layers[0].channels[0] == 3
    assert gray[1].image_channels == 1


@pytest.mark.parametrize("channels", [0, 2, 5, True, "3"])
def test_other_numbers_are_refused(channels):
    with pytest.raises(ValueError, match=r"it must be 1 \(grayscale\), 3 \(RGB\) or 4 \(RGBA\)"):
        with_image_channels(PRESETS["fagan-32"], channels)
