import json
from pathlib import Path

import pytest
import torch

from fagan_hf.architectures.conditioning import with_labels
from fagan_hf.architectures.configs import DiscriminatorConfig, GeneratorConfig
from fagan_hf.architectures.presets import PRESETS
from fagan_hf.layers import gates
from fagan_hf.models import Discriminator, Generator
from tests.small import DISCRIMINATOR, GENERATOR, with_gates

GOLDEN_KEYS = Path(__file__).parent / "state_dict_keys.json"
# Softmax over the keys is invariant to a shift of all of them, and batch norm to a shift of its input.
DEAD = (".key.bias", ".residual.bias", ".conv.bias")


@pytest.mark.parametrize("name", PRESETS)
def test_shapes_and_ranges(name):
    generator, discriminator = Generator.from_preset(name).eval(), Discriminator.from_preset(name).eval()
    config = generator.config
    with torch.no_grad():
        images = generator(torch.randn(2, config.latent_dim))
        assert torch.equal(generator(torch.randn(2, config.latent_dim, 1, 1)[:0]), images[:0])
        assert images.shape == (2, 3, config.image_size, config.image_size)
        assert images.abs().max() <= 1
        assert discriminator(images).shape == (2,)


@pytest.mark.parametrize("name", PRESETS)
def test_names_are_a_contract(name):
    """Renaming a layer would break every published model: only update the file along with a way to read old weights."""
    golden = json.loads(GOLDEN_KEYS.read_text())[name]
    for network in (Generator, Discriminator):
        state = network.from_preset(name).state_dict()
        assert {key: list(tensor.shape) for key, tensor in sorted(state.items())} == golden[network.__name__]


@pytest.mark.parametrize(("network_class", "config"), [(Generator, GENERATOR), (Discriminator, DISCRIMINATOR)])
def test_every_parameter_learns(network_class, config):
    """After two updates: a gate of 0 starves its branch of gradients at first."""
    network = network_class(config)  # here, where its first weights are always the same
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    for _ in range(3):
        inputs = torch.randn(4, 8) if isinstance(network, Generator) else torch.randn(4, 3, 8, 8)
        optimizer.zero_grad()
        (network(inputs) * torch.randn_like(network(inputs))).sum().backward()
        optimizer.step()
    still = {name for name, parameter in network.named_parameters() if not parameter.grad.abs().max() > 1e-7}
    assert all(name.endswith(DEAD) for name in still), still


def test_gates_are_found_in_order():
    assert list(gates(Generator(GENERATOR))) == ["layers.0.alpha", "layers.1.gamma", "layers.2.alpha"]
    assert all(gate.item() == 0 for gate in gates(Generator(GENERATOR)).values())


def test_labels_change_the_result():
    layers = [layer.to_dict() for layer in GENERATOR.layers]
    layers[0]["in_channels"] += 2
    generator = Generator(GeneratorConfig(latent_dim=8, image_size=8, layers=layers, label_names=("a", "b"))).eval()
    latents, labels = torch.randn(2, 8), torch.eye(2)
    assert not torch.allclose(generator(latents, labels), generator(latents, labels.flip(0)))

    layers = [layer.to_dict() for layer in DISCRIMINATOR.layers]
    layers[-1]["in_channels"] += 2
    config = DiscriminatorConfig(image_size=8, layers=layers, label_names=("a", "b"))
    discriminator, images = Discriminator(config).eval(), torch.randn(2, 3, 8, 8)
    assert not torch.allclose(discriminator(images, labels), discriminator(images, labels.flip(0)))

    with pytest.raises(ValueError, match=r"labels are missing; they must be \[2, 2\], a column for each of a, b"):
        generator(latents)
    with pytest.raises(ValueError, match=r"labels are \[2, 3\]"):
        discriminator(images, torch.zeros(2, 3))


@pytest.mark.parametrize("shape", [(2, 9), (8,), (2, 8, 1), (2, 8, 2, 2)])
def test_latents_of_a_wrong_shape(shape):
    with pytest.raises(ValueError, match=r"latents are \[.*they must be \[batch, 8\] or \[batch, 8, 1, 1\]"):
        Generator(GENERATOR)(torch.zeros(shape))


def test_images_and_labels_of_a_wrong_shape():
    with pytest.raises(ValueError, match=r"images are \[2, 3, 9, 9\]; they must be \[batch, 3, 8, 8\]"):
        Discriminator(DISCRIMINATOR)(torch.zeros(2, 3, 9, 9))
    with pytest.raises(ValueError, match=r"labels are \[2, 1\]; they must be left out"):
        Generator(GENERATOR)(torch.zeros(2, 8), torch.zeros(2, 1))


@pytest.mark.parametrize("label_names", [(), ("a", "b")])
@pytest.mark.parametrize("conditioning", ["projection", "concatenation"])
def test_logits_are_computed_in_single_precision_under_autocast(label_names, conditioning):
    _, config = with_labels((GENERATOR, DISCRIMINATOR), label_names, conditioning)
    network, seen = with_gates(Discriminator(config)), []
    network.layers[0].query.register_forward_hook(lambda *args: seen.append(args[-1].dtype))
    network.layers[-1].register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
    images = torch.rand(4, 3, 8, 8)
    labels = torch.rand(4, 2) if label_names else None
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(images, labels)
    assert seen == [torch.bfloat16, torch.float32]
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, network(images, labels), atol=0.05, rtol=0.05)
