import pytest
import torch

from benchmarks.quality import SHOWN, beside_choices, memory_of_training, table
from benchmarks.quality_arms import (
    ARMS,
    FLAGSHIP,
    RECIPE,
    RIVALS,
    SIZE,
    TOLERANCE,
    architecture_of,
    identity_of,
    parameters,
)
from benchmarks.quality_plot import draw, mean_curve
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


def types_of(arm):
    return [{type(layer) for layer in config.layers} for config in architecture_of(arm)]


def attentive_layers(arm):
    """Return the attention layers, except for those next to the image."""
    generator, discriminator = architecture_of(arm)
    layers = [*generator.layers[:-1], *discriminator.layers[1:]]
    return [layer for layer in layers if isinstance(layer, FullAttentionSpec)]


@pytest.mark.parametrize("arm", ARMS)
def test_rivals_are_as_large_and_draw_as_large(arm):
    wanted = parameters(preset(FLAGSHIP))
    generator, discriminator = architecture_of(arm)
    assert abs(parameters((generator, discriminator)) / wanted - 1) <= TOLERANCE
    images = Generator(generator).eval()(torch.randn(2, generator.latent_dim))
    assert images.shape == (2, 3, SIZE, SIZE)
    assert Discriminator(discriminator).eval()(images).shape == (2,)


def test_rivals_are_what_they_are_called():
    assert architecture_of("flagship") == preset(FLAGSHIP)
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
    images = [architecture_of(arm)[0].layers[-1] for arm in ("flagship", "gate_from_zero", "plain_image")]
    assert [layer.initial_alpha for layer in images[:2]] == [0.1, 0.0]
    assert isinstance(images[2], ConvSpec)
    assert architecture_of("classic_networks") == architecture_of("classic")
    norms = [{layer.spectral_norm for layer in attentive_layers(arm)} for arm in ("flagship", "hinge")]
    assert norms == [{False}, {True}]


@pytest.mark.parametrize("arm", ARMS)
def test_recipes_are_recipes(arm):
    Recipe(name="x", model=FLAGSHIP, **{**RECIPE, **ARMS[arm].recipe})
    decays = {**RECIPE, **ARMS[arm].recipe}.get("decay_after_images") is not None
    assert decays == (arm == "decay")


def test_an_identity_is_of_networks_and_recipe():
    assert len({identity_of(arm) for arm in ARMS}) == len(ARMS)
    assert identity_of("slower_discriminator") != identity_of("flagship"), "which have the same networks"


def run(arm, seed, value):
    return {
        "arm": arm,
        "seed": seed,
        "metrics": dict.fromkeys(SHOWN, value),
        "images_per_second": 30.4,
        "peak_memory_mb": 700,
    }


def test_the_table_has_mean_and_spread_over_seeds():
    runs = {f"sagan-{seed}": run("sagan", seed, value) for seed, value in enumerate([1.0, 2.0, 3.0])}
    runs["classic-0"] = run("classic", 0, 5.0)
    head, _, *rows = table(runs, ["sagan", "classic", "flagship"]).splitlines()
    assert head.startswith("| | seeds | fd ↓ | kid ↓ | precision ↑")
    assert len(rows) == 2
    assert rows[0] == f"| {ARMS['sagan'].about} | 3 |" + " 2 ± 1 |" * len(SHOWN) + " 30 | 700 |"
    assert "| 1 | 5 | 5 |" in rows[1]
    assert rows[1].endswith("| 30 | 700 |")


def test_memory_is_that_of_training_before_anything_is_measured():
    measured = {"peak_memory_mb": 900.0, "fd_effnetlite0_2048": 300.0}
    lines = [{"peak_memory_mb": 300.0, "G_loss": 1.0}, {"peak_memory_mb": 320.0}, measured, {"peak_memory_mb": 900.0}]
    assert memory_of_training(lines) == 320.0
    assert memory_of_training([measured]) is None


def test_a_table_leaves_out_memory_that_nobody_knows():
    runs = {"sagan-0": run("sagan", 0, 1.0) | {"peak_memory_mb": None}, "sagan-1": run("sagan", 1, 1.0)}
    assert table(runs, ["sagan"]).splitlines()[-1].endswith("| 700 |")


def test_choices_are_compared_with_the_flagship_of_their_seeds():
    arms = [("flagship", 0), ("flagship", 1), ("flagship", 2), ("hinge", 0), ("hinge", 2), ("sagan", 0)]
    runs = {f"{arm}-{seed}": run(arm, seed, 1.0) for arm, seed in arms}
    assert set(beside_choices(runs)) == {"flagship-0", "flagship-2", "hinge-0", "hinge-2"}


def curve(arm, points):
    return {"arm": arm, "seed": 0, "curve": [{"seconds": seconds, "fd": value} for seconds, value in points]}


def test_a_curve_is_the_mean_where_all_runs_were_measured():
    runs = [curve("sagan", [(60, 4.0), (180, 2.0)]), curve("sagan", [(120, 5.0), (240, 1.0)])]
    minutes, mean, least, most = mean_curve(runs, "fd")
    assert (minutes[0], minutes[-1]) == (2, 3)
    assert (mean[0], least[0], most[0]) == (4.0, 3.0, 5.0)
    assert mean[-1] == pytest.approx((2.0 + 3.0) / 2)


def test_rivals_are_drawn_left_and_variants_right():
    points = [(60, 4.0), (180, 2.0)]
    runs = {arm: curve(arm, points) for arm in ("sagan", "flagship", "hinge")}
    left, right = draw(runs, "fd").axes
    named = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in (left, right)]
    assert named == [["SAGAN", "flagship"], ["flagship", ARMS["hinge"].about]]
    assert set(RIVALS) < set(ARMS)
