import pytest
import torch

from benchmarks.quality_of.arms import (
    ARMS,
    FLAGSHIPS,
    RIVALS,
    TOLERANCE,
    architecture_of,
    identity_of,
    parameters,
    recipe_of,
)
from fagan_hf.architectures.presets import preset
from fagan_hf.architectures.specs import (
    BatchNormSpec,
    ConvSpec,
    FullAttentionBlockSpec,
    FullAttentionSpec,
    SelfAttentionSpec,
)
from fagan_hf.models import Discriminator, Generator
from fagan_hf.training.recipe import Recipe


def types_of(arm, size=32):
    return [{type(layer) for layer in config.layers} for config in architecture_of(arm, size)]


def attentive_layers(arm, size=32):
    """Return the attention layers, except for those next to the image."""
    generator, discriminator = architecture_of(arm, size)
    layers = [*generator.layers[:-1], *discriminator.layers[1:]]
    return [layer for layer in layers if isinstance(layer, FullAttentionSpec)]


@pytest.mark.parametrize(("size", "arm"), [*((32, arm) for arm in ARMS), *((64, arm) for arm in RIVALS)])
def test_rivals_are_as_large_and_draw_as_large(size, arm):
    wanted = parameters(preset(FLAGSHIPS[size][0]))
    generator, discriminator = architecture_of(arm, size)
    assert abs(parameters((generator, discriminator)) / wanted - 1) <= TOLERANCE
    images = Generator(generator).eval()(torch.randn(2, generator.latent_dim))
    assert images.shape == (2, 3, size, size)
    assert Discriminator(discriminator).eval()(images).shape == (2,)


def test_rivals_are_what_they_are_called():
    assert all(architecture_of("flagship", size) == preset(name) for size, (name, _) in FLAGSHIPS.items())
    assert not any({FullAttentionSpec, SelfAttentionSpec} & types for types in types_of("convolution"))
    assert all(SelfAttentionSpec in types and FullAttentionSpec not in types for types in types_of("sagan"))
    assert all({SelfAttentionSpec, FullAttentionSpec} <= types for types in types_of("classic"))
    assert all(FullAttentionBlockSpec in types for types in types_of("shortcuts"))
    assert BatchNormSpec in types_of("batch_norm")[0]


def test_what_the_flagship_lacks_in_turn():
    assert {layer.similarity for layer in attentive_layers("flagship")} == {"cosine"}
    assert {layer.similarity for layer in attentive_layers("dot_product")} == {"dot_product"}
    assert {layer.similarity for layer in attentive_layers("distance")} == {"negative_distance"}
    assert max(layer.key_pooling for layer in attentive_layers("flagship")) == 8
    # Upsampling by two followed by pooling by two is the identity.
    assert all(layer.key_pooling == 1 + layer.upsample for layer in attentive_layers("whole_keys"))
    assert {layer.heads for layer in attentive_layers("flagship")} == {1}
    assert {layer.heads for layer in attentive_layers("two_heads")} == {2}
    assert any(layer.upsample for layer in attentive_layers("flagship"))
    assert not any(layer.upsample for layer in attentive_layers("transposed"))
    images = [architecture_of(arm, 32)[0].layers[-1] for arm in ("flagship", "gate_from_zero", "plain_image")]
    assert [layer.initial_alpha for layer in images[:2]] == [0.1, 0.0]
    assert isinstance(images[2], ConvSpec)
    assert architecture_of("classic_networks", 32) == architecture_of("classic", 32)
    norms = [{layer.spectral_norm for layer in attentive_layers(arm)} for arm in ("flagship", "hinge")]
    assert norms == [{False}, {True}]


@pytest.mark.parametrize("dataset", ["avatars", "pictures"])
@pytest.mark.parametrize("size", FLAGSHIPS)
@pytest.mark.parametrize("arm", ARMS)
def test_recipes_are_recipes(arm, size, dataset):
    fields = recipe_of(arm, size, dataset)
    recipe = Recipe(name="x", model=FLAGSHIPS[size][0], **fields)
    assert recipe.dataset == dataset
    assert recipe.horizontal_flip == (dataset != "avatars"), "each kind of image has its own recipe"
    assert not {"max_minutes", "max_images"} & fields.keys(), "which the work decides"


def test_an_identity_is_of_networks_and_recipe_wherever_the_images_lie():
    assert len({identity_of(arm, 32, "avatars") for arm in ARMS}) == len(ARMS)
    assert identity_of("slower_discriminator", 32, "avatars") != identity_of("flagship", 32, "avatars")
    assert identity_of("flagship", 32, "a/pictures") == identity_of("flagship", 32, "b/pictures")
    assert identity_of("flagship", 32, "a/pictures") != identity_of("flagship", 32, "avatars")
    assert identity_of("flagship", 32, "a/pictures") != identity_of("flagship", 64, "a/pictures")
