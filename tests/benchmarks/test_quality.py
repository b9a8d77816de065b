import torch

from benchmarks.quality import SHOWN, table
from benchmarks.quality_arms import ARMS, FLAGSHIP, RECIPE, SIZE, TOLERANCE, architecture_of, parameters
from fagan_hf.configs import FullAttentionSpec, SelfAttentionSpec
from fagan_hf.models import Discriminator, Generator
from fagan_hf.presets import preset
from training.recipe import Recipe


def types_of(arm):
    return [{type(layer) for layer in config.layers} for config in architecture_of(ARMS[arm])]


def test_rivals_are_as_large_and_draw_as_large():
    wanted = parameters(preset(FLAGSHIP))
    for arm in ARMS.values():
        generator, discriminator = architecture_of(arm)
        assert abs(parameters((generator, discriminator)) / wanted - 1) <= TOLERANCE, arm.about
        images = Generator(generator).eval()(torch.randn(2, generator.latent_dim))
        assert images.shape == (2, 3, SIZE, SIZE)
        assert Discriminator(discriminator).eval()(images).shape == (2,)


def test_rivals_are_what_they_are_called():
    assert not any({FullAttentionSpec, SelfAttentionSpec} & types for types in types_of("convolution"))
    assert all(SelfAttentionSpec in types and FullAttentionSpec not in types for types in types_of("sagan"))
    assert all({SelfAttentionSpec, FullAttentionSpec} <= types for types in types_of("classic"))
    assert types_of("flagship")[0] == {FullAttentionSpec}


def test_recipes_are_recipes_and_differ_where_they_say():
    for arm in ARMS.values():
        Recipe(name="x", model=FLAGSHIP, **{**RECIPE, **arm.recipe})
    assert ARMS["convolution"].recipe == ARMS["sagan"].recipe == ARMS["flagship"].recipe == {}


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
    assert rows[0].count("| 2 ± 1 |") + rows[0].count(" 2 ± 1 |") >= len(SHOWN)
    assert "| 3 |" in rows[0]
    assert "| 1 | 5 | 5 |" in rows[1]
    assert rows[1].endswith("| 30 | 700 |")
