import json
import re
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fagan_hf.architectures.conditioning import with_labels
from fagan_hf.architectures.configs import DiscriminatorConfig, GeneratorConfig
from fagan_hf.architectures.presets import PRESETS, flagship, preset
from fagan_hf.architectures.specs import (
    ActivationSpec,
    ConvSpec,
    ConvTransposeSpec,
    FullAttentionSpec,
    RMSNormSpec,
    parse_activation,
    parse_layer,
)
from fagan_hf.models import Discriminator, Generator
from tests.small import DISCRIMINATOR, GENERATOR

CONFIGS = [config for pair in PRESETS.values() for config in pair] + [GENERATOR, DISCRIMINATOR]


@pytest.mark.parametrize(
    "config", CONFIGS, ids=[f"{type(each).__name__} {index}" for index, each in enumerate(CONFIGS)]
)
def test_json_and_back(config):
    assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config


def generator(**changes):
    return GENERATOR.to_dict() | changes


def with_layer(index, **changes):
    data = GENERATOR.to_dict()
    data["layers"][index] |= changes
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (generator(latent_dims=8), "unknown key 'latent_dims'; did you mean 'latent_dim'?"),
        ({"image_size": 8, "layers": []}, "missing 'latent_dim'"),
        (generator(latent_dim=0), "latent_dim is 0; it must be a whole number from 1 to 65,536"),
        (generator(latent_dim=8.0), "latent_dim is 8.0"),
        (generator(image_size=True), "image_size is True"),
        (generator(image_size=16), "ends with 3 channels at 8x8.*|outputs 3 channels at 8x8, but .* 3 at 16x16"),
        (generator(layers=[]), "layers is []; it must be a list of at least one layer"),
        (generator(layers={"type": "conv"}), "it must be a list"),
        (generator(label_names=["a", "a"]), "label_names is ['a', 'a']; it must be a list of different names"),
        (generator(label_names=["a"]), "layers[0] (full_attention): in_channels is 8, but the network's input has 9"),
        (with_layer(1, in_channels=20), "layers[1] (self_attention): in_channels is 20, but layers[0] outputs 16"),
        (
            with_layer(0, type="full_atention"),
            "type is 'full_atention', which is not a built-in layer",
        ),
        (with_layer(0, strides=2), "layers[0] (full_attention): unknown key 'strides'; did you mean 'stride'?"),
        (with_layer(0, stride=-1), "layers[0] (full_attention): stride is -1; it must be a whole number"),
        (with_layer(0, kernel_size="4"), "layers[0] (full_attention): kernel_size is '4'"),
        (with_layer(0, batch_norm=1), "layers[0] (full_attention): batch_norm is 1; it must be true or false"),
        (with_layer(0, activation="lrelu(0.2)"), "activation is 'lrelu(0.2)'; did you mean 'relu'"),
        (with_layer(0, activation="relu(0.2)"), "activation is 'relu(0.2)'; it must be written 'relu'"),
        (with_layer(0, activation="leaky_relu"), "it must be written 'leaky_relu(0.2)'"),
        (with_layer(0, squeeze_factor=9), "squeeze_factor is 9; it must be at most in_channels, 8"),
        (with_layer(1, heads=3), "layers[1] (self_attention): heads is 3; it must divide the query's 2 channels"),
        (with_layer(0, spectral_norm_dim=2), "spectral_norm_dim is 2; it must be 0 (the original's) or 1"),
        (
            with_layer(0, padding=2),
            "layers[0] (full_attention): kernel_size is 4, stride 1, padding 2: the output for a 1x1 input is empty",
        ),
        ([1], "it is list [1]; it must be a mapping"),
    ],
)
def test_nonsense_is_refused_and_named(data, message):
    with pytest.raises(ValueError, match=message if "|" in message else re.escape(message)):
        GeneratorConfig.from_dict(data)


def test_missing_layer_keys_are_listed():
    with pytest.raises(ValueError, match=r"missing 'out_channels', 'kernel_size'; it needs in_channels"):
        parse_layer({"type": "conv", "in_channels": 3})


def test_a_layer_without_type_lists_the_types():
    with pytest.raises(
        ValueError, match=r"must be a mapping with a 'type'. There are: activation, batch_norm, conv, conv_block"
    ):
        parse_layer({"in_channels": 3})


def test_a_discriminator_must_end_in_one_logit():
    with pytest.raises(ValueError, match=r"outputs 16 channels at 4x4, but the network must end with 1 at 1x1"):
        DiscriminatorConfig(image_size=8, layers=DISCRIMINATOR.layers[:1])


def test_labels_enter_before_the_last_layer_of_a_discriminator():
    layers = [layer.to_dict() for layer in DISCRIMINATOR.layers]
    layers[-1]["in_channels"] += 2
    config = DiscriminatorConfig(image_size=8, layers=tuple(layers), label_names=("beard", "glasses"))
    assert config.num_labels == 2


def test_a_config_is_a_value():
    assert hash(GENERATOR) == hash(GeneratorConfig.from_dict(GENERATOR.to_dict()))
    with pytest.raises(AttributeError):
        GENERATOR.latent_dim = 3


sizes = st.integers(1, 6)


@given(st.integers(8, 20), sizes, st.integers(1, 3), st.integers(0, 2), st.booleans())
def test_output_size_is_what_torch_gives(size, kernel_size, stride, padding, transposed):

    from fagan_hf.layers import build_layer

    spec_class = ConvTransposeSpec if transposed else ConvSpec
    spec = spec_class(in_channels=1, out_channels=1, kernel_size=kernel_size, stride=stride, padding=padding)
    assert build_layer(spec)(torch.zeros(1, 1, size, size)).shape[-1] == spec.output_size(size)


@given(st.floats(0, 10, allow_nan=False))
def test_the_slope_of_a_leaky_relu_survives(slope):
    assert parse_activation(f"leaky_relu({slope})") == ("leaky_relu", slope)


def test_unknown_preset_lists_them():
    with pytest.raises(ValueError, match=r"unknown preset 'fagan-46'; did you mean 'fagan-.*There are: .*dcgan-64"):
        preset("fagan-46")


@pytest.mark.parametrize(
    "name", ["fagan-32", "fagan-64", "fagan-128", "fagan-256", "fagan-256-small", "fagan-plain-32"]
)
def test_every_layer_with_positions_to_attend_to_is_full_attention(name):
    for config in preset(name):
        size = config._input()[1]
        for layer in config.layers:
            size = layer.output_size(size)
            only_passes = isinstance(layer, RMSNormSpec | ActivationSpec)
            assert isinstance(layer, FullAttentionSpec) or only_passes or size == 1


@pytest.mark.parametrize(
    ("name", "keys"), [("fagan-32", 4), ("fagan-64", 8), ("fagan-128", 16), ("fagan-256", 32), ("fagan-256-small", 32)]
)
def test_the_flagship_has_few_keys_however_large_the_map(name, keys):
    for config in preset(name):
        size, largest = config._input()[1], 0
        for layer in config.layers:
            out = layer.output_size(size)
            largest = max(largest, out // getattr(layer, "key_pooling", out))
            size = out
        assert largest == keys


@pytest.mark.parametrize(("size", "maps"), [(36, 3), (48, 4), (96, 5), (100, 3), (200, 4)], ids=str)
def test_the_flagship_reaches_other_sizes(size, maps):
    widths = (24, 16, 16, 8, 8)[:maps]
    configs = flagship(image_size=size, latent_dim=8, generator=widths, discriminator=widths[:0:-1])
    torch.manual_seed(0)
    generator, discriminator = map(network, configs)
    images = generator(torch.randn(2, 8))
    assert images.shape == (2, 3, size, size)
    assert discriminator(images).shape == (2,)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"image_size": 50},
            r"image_size is 50, which 4 feature maps don't reach: .* of 8\. Use 48 or 56, or fewer maps",
        ),
        ({"image_size": 4}, r"image_size is 4, .* multiple of 8\. Use 8, or fewer maps"),
        ({"discriminator": (8, 8)}, r"has 4 feature maps and the discriminator 2; it must have one fewer, 3"),
    ],
    ids=["between", "small", "discriminator"],
)
def test_a_size_that_maps_do_not_reach(fields, words):
    given = {"image_size": 64, "latent_dim": 8, "generator": (8,) * 4, "discriminator": (8,) * 3} | fields
    with pytest.raises(ValueError, match=words):
        flagship(**given)


def test_configs_need_no_torch():
    code = "import sys, fagan_hf.architectures.presets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def network(config):
    return {GeneratorConfig: Generator, DiscriminatorConfig: Discriminator}[type(config)](config)


LABELED = [
    config
    for name in ("fagan-32", "fagan-plain-32", "dcgan-64")
    for conditioning in ("concatenation", "projection")
    for config in with_labels(PRESETS[name], ("a", "b=c", "b=d"), conditioning)
]


@pytest.mark.parametrize("number", range(len(CONFIGS) + len(LABELED)))
def test_how_many_weights_there_are_is_known_before_anything_is_built(number):
    config = [*CONFIGS, *LABELED][number]
    held = sum(each.numel() for each in network(config).state_dict().values() if each.is_floating_point())
    assert 0.98 * held - 500 <= config.weights <= held
