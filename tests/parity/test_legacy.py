"""Networks that the original trained and saved, converted and loaded: the same outputs as its own."""

import pytest
import torch
from attn_gan_pytorch import Losses, Networks
from torch import nn
from torch.optim import Adam

from benchmarks.peer import peer_modules, wake
from fagan_hf.architectures.presets import preset
from fagan_hf.architectures.specs import (
    BatchNormSpec,
    ConvSpec,
    ConvTransposeSpec,
    DropoutSpec,
    FullAttentionSpec,
    SelfAttentionSpec,
)
from fagan_hf.cli import main
from fagan_hf.models import Discriminator, Generator
from fagan_hf.models.legacy.conf import read_conf
from fagan_hf.models.legacy.configs import discriminator_config, generator_config
from tests.parity.conf import conf_text

CLASSICS = ("fagan-classic-64", "sagan-classic-64", "sample-2-classic-64", "sample-3-classic-64")
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
DOUBLE = {"kernel_size": 4, "stride": 2, "padding": 1}


def small_generator(in_channels):
    return (
        ConvTransposeSpec(in_channels=in_channels, out_channels=16, kernel_size=4, batch_norm=True, activation="relu"),
        FullAttentionSpec(in_channels=16, out_channels=8, **DOUBLE, transposed=True, batch_norm=False),
        BatchNormSpec(in_channels=8),
        DropoutSpec(probability=0.3),
        SelfAttentionSpec(in_channels=8, squeeze_factor=2, activation="leaky_relu(0.1)"),
        ConvTransposeSpec(in_channels=8, out_channels=3, kernel_size=3, padding=1, spectral_norm=False, bias=False),
    )


def small_discriminator(num_labels):
    return (
        FullAttentionSpec(in_channels=3, out_channels=8, **DOUBLE, squeeze_factor=1, activation="identity"),
        DropoutSpec(probability=0.3),
        BatchNormSpec(in_channels=8),
        SelfAttentionSpec(in_channels=8, bias=False),
        ConvSpec(in_channels=8 + num_labels, out_channels=1, kernel_size=4, activation="sigmoid"),
    )


def train(gan, latents, images, *labels, steps=2):
    """Train a few steps as the original's own loop does; the networks are left in eval mode."""
    for network in (gan.generator, gan.discriminator):
        wake(network).to(latents.dtype).train()
    optimizers = [
        Adam([each for each in network.parameters() if each.requires_grad], rate, (0.0, 0.9))
        for network, rate in ((gan.generator, 1e-4), (gan.discriminator, 4e-4))
    ]
    loss = Losses.RelativisticAverageHingeGAN(gan.device, gan.discriminator)
    for _ in range(steps):
        gan.optimize_discriminator(optimizers[1], latents, images, loss, *labels)
        gan.optimize_generator(optimizers[0], latents, images, loss, *labels)
    gan.generator.eval()
    gan.discriminator.eval()


@torch.no_grad()
def outputs(gan, latents, images, *labels):
    # Their singular vectors change even in eval mode, before use: those saved afterward belong to this output.
    return gan.generator(latents), gan.discriminator(images, *labels).flatten()


def converted(folder, specs, networks, *arguments, **save):
    """Save as the original does, convert, load."""
    options = []
    for flag, kind, layers, network in zip(
        ("generator", "discriminator"), ("GEN", "DIS"), specs, networks, strict=True
    ):
        conf, weights = folder / f"{kind}.conf", folder / f"GAN_{kind}_1.pth"
        conf.write_text(conf_text(layers))
        torch.save(network.state_dict(), weights, **save)
        options += [f"--{flag}-conf", str(conf), f"--{flag}-weights", str(weights)]
    out = folder / "model"
    assert main(["convert", *options, *arguments, "--out", str(out)]) == 0
    return Generator.from_pretrained(out), Discriminator.from_pretrained(out)


def small_gan():
    specs = small_generator(8), small_discriminator(0)
    gan_modules = [peer_modules(conf_text(layers)) for layers in specs]
    return specs, Networks.GAN(Networks.Generator(gan_modules[0], 8), Networks.Discriminator(gan_modules[1]))


@torch.no_grad()
def assert_equal(pair, expected, latents, images, *labels):
    generator, discriminator = pair
    assert generator.dtype == discriminator.dtype == latents.dtype
    tolerance = TOLERANCES[latents.dtype]
    result = generator(latents[:, : generator.config.latent_dim], *labels), discriminator(images, *labels)
    torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module", params=CLASSICS)
def classic(request):
    """One of the original's networks, trained in float32, which takes half as long as float64."""
    torch.manual_seed(0)
    specs = [config.layers for config in preset(request.param)]
    modules = [peer_modules(conf_text(layers)) for layers in specs]
    gan = Networks.GAN(Networks.Generator(modules[0], 128), Networks.Discriminator(modules[1]))
    train(gan, torch.randn(2, 128, 1, 1), torch.rand(2, 3, 64, 64) * 2 - 1, steps=1)
    return request.param, specs, gan


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_classic(classic, dtype, tmp_path):
    name, specs, gan = classic
    networks = gan.generator.to(dtype), gan.discriminator.to(dtype)
    inputs = torch.randn(2, 128, 1, 1, dtype=dtype), torch.rand(2, 3, 64, 64, dtype=dtype) * 2 - 1
    expected = outputs(gan, *inputs)
    pair = converted(tmp_path, specs, networks)
    assert_equal(pair, expected, *inputs)
    assert tuple(network.config for network in pair) == preset(name)


@pytest.mark.parametrize("name", CLASSICS)
def test_a_preset_written_as_conf_is_read_as_the_preset(name, tmp_path):
    generator, discriminator = preset(name)
    for config, read in ((generator, generator_config), (discriminator, discriminator_config)):
        (tmp_path / "a.conf").write_text(conf_text(config.layers))
        assert read(read_conf(tmp_path / "a.conf")) == config


def test_every_kind_of_layer(tmp_path):
    specs, gan = small_gan()
    inputs = torch.randn(4, 8, 1, 1, dtype=torch.float64), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    train(gan, *inputs)
    expected = outputs(gan, *inputs)
    pair = converted(tmp_path, specs, (gan.generator, gan.discriminator))
    assert_equal(pair, expected, *inputs)
    assert tuple(network.config.layers for network in pair) == specs


def test_singular_vectors_stay_as_they_were_saved(tmp_path):
    specs, gan = small_gan()
    generator, _ = converted(tmp_path, specs, (gan.generator, gan.discriminator))
    [norm] = generator.layers[0].conv.parametrizations["weight"]
    theirs = gan.generator.model[0][0].module
    assert torch.equal(norm.u, theirs.weight_u)
    assert torch.equal(norm.v, theirs.weight_v)


def test_a_pair_behind_data_parallel(tmp_path):
    specs, gan = small_gan()
    inputs = torch.randn(2, 8, 1, 1), torch.randn(2, 3, 8, 8)
    expected = outputs(gan, *inputs)
    pair = converted(tmp_path, specs, map(nn.DataParallel, (gan.generator, gan.discriminator)))
    assert_equal(pair, expected, *inputs)


def test_files_of_an_old_torch(tmp_path):
    specs, gan = small_gan()
    inputs = torch.randn(2, 8, 1, 1), torch.randn(2, 3, 8, 8)
    expected = outputs(gan, *inputs)
    networks = gan.generator, gan.discriminator
    assert_equal(converted(tmp_path, specs, networks, _use_new_zipfile_serialization=False), expected, *inputs)


def test_a_conditional_pair(tmp_path):
    specs = small_generator(8 + 2), small_discriminator(2)
    modules = [peer_modules(conf_text(layers)) for layers in specs]
    gan = Networks.ConditionalGAN(
        Networks.ConditionalGenerator(modules[0], 10),
        Networks.ConditionalDiscriminator(modules[1][:-1], modules[1][-1]),
    )
    labels = torch.randint(2, (4, 2), dtype=torch.float64)
    latents = torch.cat([torch.randn(4, 8, 1, 1, dtype=torch.float64), labels[..., None, None]], dim=1)
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    train(gan, latents, images, labels)
    expected = outputs(gan, latents, images, labels)
    pair = converted(tmp_path, specs, (gan.generator, gan.discriminator), "--label-names", "beard, glasses")
    assert pair[0].config.label_names == pair[1].config.label_names == ("beard", "glasses")
    assert pair[0].config.latent_dim == 8
    assert_equal(pair, expected, latents, images, labels)
