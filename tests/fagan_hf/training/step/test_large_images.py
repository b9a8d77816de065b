"""A flagship larger than any preset: 512 pixels."""

import math

import numpy as np
import torch

from fagan_hf.architectures.presets import flagship
from fagan_hf.losses import LOSSES
from fagan_hf.models import Discriminator, Generator
from fagan_hf.sampling.images import generate_images, latents_from_seeds
from fagan_hf.training.distributed.processes import Processes
from fagan_hf.training.step.steps import MicroBatch, Trainer, make_player


def test_512_pixels_by_config(tmp_path):
    torch.manual_seed(0)
    widths = (8,) * 8
    networks = flagship(image_size=512, latent_dim=8, generator=widths, discriminator=widths[1:], keys=8)
    generator, discriminator = Generator(networks[0]), Discriminator(networks[1])
    before = {name: weight.clone() for name, weight in generator.state_dict().items()}
    processes = Processes("no")
    players = [make_player(processes, network, 1e-2, (0.0, 0.99)) for network in (generator, discriminator)]
    trainer = Trainer(processes, *players, LOSSES["relativistic_pairing"], ())
    batch = MicroBatch(
        torch.rand(2, 3, 512, 512) * 2 - 1, torch.zeros(2, 0, 3), torch.randn(2, 8), torch.zeros(2, 0, 3)
    )
    numbers = trainer.step([batch], [batch], 0)
    assert all(math.isfinite(numbers[f"{player}_loss"]) for player in ("generator", "discriminator"))
    assert numbers["generator_skipped"] == numbers["discriminator_skipped"] == 0
    generator.eval().save_pretrained(tmp_path)
    loaded = Generator.from_pretrained(tmp_path)
    saved, trained = loaded.state_dict(), generator.state_dict()
    assert all(torch.equal(weight, trained[name]) for name, weight in saved.items())
    assert any(not torch.equal(weight, before[name]) for name, weight in saved.items())
    latents = latents_from_seeds([0], 8)
    images = generate_images(loaded, latents)
    assert np.shape(images) == (1, 512, 512, 3)
    # The trained network is channels_last, the loaded one is not, so their sums are rounded differently.
    assert np.abs(images.astype(int) - generate_images(generator, latents)).max() <= 1
