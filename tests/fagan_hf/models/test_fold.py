import copy
import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from fagan_hf.architectures.conditioning import with_labels
from fagan_hf.architectures.configs import DiscriminatorConfig
from fagan_hf.architectures.presets import PRESETS
from fagan_hf.architectures.specs import LAYER_SPECS, ConvSpec, LayerSpec
from fagan_hf.layers import LAYERS, build_layer, register_layer, spectral_norm
from fagan_hf.models import Discriminator, Generator
from tests.small import DISCRIMINATOR, GENERATOR, with_gates

LABELS = ("beard", "hair=red", "hair=black")
SMALL = (GENERATOR, DISCRIMINATOR)
CONFIGS = {
    "plain": SMALL,
    "projection": with_labels(SMALL, LABELS, "projection"),
    "concatenation": with_labels(SMALL, LABELS, "concatenation"),
    "fagan-plain-32": PRESETS["fagan-plain-32"],
}
CASES = [(name, index) for name in CONFIGS for index in (0, 1)]


def build(name, index):
    """Make a network in which every part has an effect, and inputs for it."""
    config = CONFIGS[name][index]
    network = with_gates((Generator, Discriminator)[index](config))
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    size = config.image_size
    shape = (config.latent_dim,) if index == 0 else (3, size, size)
    inputs = [torch.randn(3, *shape)] + ([torch.rand(3, len(LABELS))] if config.num_labels else [])
    return network, inputs


def normalized(network):
    return [name for name, module in network.named_modules() if parametrize.is_parametrized(module)]


def same_states(one, other):
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][key], states[1][key]) for key in states[0]
    )


@pytest.mark.parametrize(("name", "index"), CASES)
@torch.no_grad()
def test_the_output_is_the_same_to_the_bit(name, index):
    network, inputs = build(name, index)
    folded = network.fold()
    assert torch.equal(folded(*inputs), network(*inputs))
    assert normalized(network)
    assert normalized(folded) == (["projection"] if (name, index) == ("projection", 1) else [])
    assert not any(spec.spectral_norm for spec in folded.config.layers if hasattr(spec, "spectral_norm"))


@pytest.mark.parametrize(("name", "index"), CASES)
@torch.no_grad()
def test_it_is_saved_and_loaded(name, index, tmp_path):
    network, inputs = build(name, index)
    folded = network.fold()
    folded.save_pretrained(tmp_path)
    loaded = type(network).from_pretrained(tmp_path)
    assert loaded.config == folded.config
    assert same_states(loaded, folded)
    assert torch.equal(loaded(*inputs), network(*inputs))


@pytest.mark.parametrize("index", [0, 1])
def test_the_original_stays(index):
    network, inputs = build("projection", index)
    network.train()
    before, config = copy.deepcopy(network), network.config
    folded = network.fold()
    assert network.config is config
    assert network.training
    assert not folded.training
    with torch.no_grad():  # also in the following parts
        for parameter in folded.parameters():
            parameter.zero_()
    assert same_states(network, before)
    torch.testing.assert_close(network(*inputs), before(*inputs), rtol=0, atol=0)
    network(*inputs).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_folded_again_it_equals_itself():
    folded = build("projection", 0)[0].fold()
    again = folded.fold()
    assert again is not folded
    assert again.config == folded.config
    assert same_states(again, folded)


def test_dtype_and_frequencies_are_kept():
    network, inputs = build("projection", 0)
    network.label_frequencies = torch.tensor([0.25, 0.5, 0.125])
    network.bfloat16()
    folded = network.fold()
    assert {parameter.dtype for parameter in folded.parameters()} == {torch.bfloat16}
    assert torch.equal(folded.label_frequencies, network.label_frequencies)
    assert folded.label_frequencies is not network.label_frequencies
    inputs = [each.bfloat16() for each in inputs]
    assert torch.equal(folded(*inputs), network(*inputs))


def test_it_costs_no_random_numbers_and_keeps_what_is_frozen():
    network, _ = build("plain", 1)
    network.layers[1].requires_grad_(False)
    before = torch.get_rng_state()
    folded = network.fold()
    assert torch.equal(torch.get_rng_state(), before)
    assert [each.requires_grad for each in folded.layers[1].parameters()] == [False, False]
    assert all(each.requires_grad for each in folded.layers[0].parameters())


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name):
    for config, network_class in zip(PRESETS[name], (Generator, Discriminator), strict=True):
        folded = network_class(config).fold()
        with torch.device("meta"):
            expected = network_class(folded.config).state_dict()
        assert not normalized(folded)
        shapes = {key: tensor.shape for key, tensor in folded.state_dict().items()}
        assert shapes == {key: tensor.shape for key, tensor in expected.items()}


@dataclass(frozen=True, kw_only=True)
class AlwaysNormalizedSpec(LayerSpec):
    type: ClassVar[str] = "always_normalized"


class AlwaysNormalized(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = spectral_norm(nn.Conv2d(3, 3, 1))

    def forward(self, feature_map):
        return self.conv(feature_map)


@dataclass(frozen=True, kw_only=True)
class HalfNormalizedSpec(LayerSpec):
    type: ClassVar[str] = "half_normalized"
    spectral_norm: bool = True


class HalfNormalized(AlwaysNormalized):
    """A layer whose `spectral_norm` field governs only one of its two normalized convolutions."""

    def __init__(self, *, spectral_norm):
        super().__init__()
        self.steered = build_layer(ConvSpec(in_channels=3, out_channels=3, kernel_size=1, spectral_norm=spectral_norm))

    def forward(self, feature_map):
        return self.steered(self.conv(feature_map))


@pytest.mark.parametrize(
    ("spec_class", "layer_class"), [(AlwaysNormalizedSpec, AlwaysNormalized), (HalfNormalizedSpec, HalfNormalized)]
)
def test_what_a_spec_can_not_say_stays_parametrized(spec_class, layer_class, tmp_path, monkeypatch):
    monkeypatch.setitem(LAYER_SPECS, spec_class.type, spec_class)
    monkeypatch.setitem(LAYERS, spec_class.type, layer_class)
    register_layer(spec_class, layer_class)
    config = dataclasses.replace(DISCRIMINATOR, layers=(spec_class(), *DISCRIMINATOR.layers))
    assert isinstance(config, DiscriminatorConfig)
    network = with_gates(Discriminator(config))
    folded = network.fold()
    assert normalized(folded) == [name for name in normalized(network) if name.startswith("layers.0.")]
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(folded(images), network(images))
    folded.save_pretrained(tmp_path)
    assert torch.equal(Discriminator.from_pretrained(tmp_path)(images), network(images))
