"""The networks and recipes that `benchmarks/quality.py` compares at equal numbers of parameters, images and time."""

import dataclasses
import hashlib
import json
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from fagan_hf.architectures.configs import DiscriminatorConfig, GeneratorConfig
from fagan_hf.architectures.presets import FLAGSHIP_32, flagship, preset
from fagan_hf.architectures.specs import (
    IMAGE_CHANNELS,
    ActivationSpec,
    BatchNormSpec,
    ConvSpec,
    ConvTransposeSpec,
    FullAttentionBlockSpec,
    FullAttentionSpec,
    LayerSpec,
    RMSNormSpec,
    SelfAttentionSpec,
)
from fagan_hf.hub.repository import count_parameters
from fagan_hf.models import Discriminator, Generator

Architecture = tuple[GeneratorConfig, DiscriminatorConfig]
Widths = tuple[tuple[int, ...], tuple[int, ...]]

SIZE = 32
FLAGSHIP = "fagan-32"
TOLERANCE = 0.1
"""Largest relative difference in the number of parameters from the flagship."""
_WIDTHS: Widths = FLAGSHIP_32["generator"], FLAGSHIP_32["discriminator"]  # other arms scale these by a factor
_DOUBLE: dict[str, Any] = {"kernel_size": 4, "stride": 2, "padding": 1}
_ENDS: dict[str, Any] = {"kernel_size": 4, "stride": 1, "padding": 0}


@dataclass(frozen=True)
class Arm:
    """One arm of the comparison.

    Attributes:
        about: Description for the table.
        build: Makes its networks from the channels of both networks' feature maps, as `presets.flagship` does.
        recipe: Fields of the recipe that differ from `RECIPE`.
    """

    about: str
    build: Callable[[Widths], Architecture]
    recipe: dict[str, Any] = field(default_factory=dict)


def _recipe_of_make_train() -> dict[str, Any]:
    path = Path(__file__).resolve().parents[1] / "training/recipes/avatars-32.yaml"
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    not_of_the_rivals = {"name", "model", "max_minutes"}
    return {
        key: value
        for key, value in recipe.items()
        if key not in not_of_the_rivals and not key.endswith("_every_images")
    }


RECIPE = _recipe_of_make_train()
# The original's recipe: its loss and batch size, constant learning rates, and no EMA (its half-life is one image).
ORIGINAL: dict[str, Any] = {
    "loss": "relativistic_hinge",
    "r1_gamma": 0,
    "r2_gamma": 0,
    "batch_size": 32,
    "generator_learning_rate": 1e-4,
    "discriminator_learning_rate": 4e-4,
    "betas": [0.0, 0.9],
    "decay_after_images": None,
    "ema_half_life_images": 1,
}


def _flagship(widths: Widths, **options: Any) -> Architecture:
    fields = {**FLAGSHIP_32, **options}
    return flagship(**{**fields, "generator": widths[0], "discriminator": widths[1]})


def _changed(architecture: Architecture, change: Callable[[LayerSpec], Sequence[LayerSpec]]) -> Architecture:
    """Replace each layer by zero or more others."""
    generator, discriminator = architecture

    def layers(config: GeneratorConfig | DiscriminatorConfig) -> tuple[LayerSpec, ...]:
        return tuple(new for layer in config.layers for new in change(layer))

    return (
        dataclasses.replace(generator, layers=layers(generator)),
        dataclasses.replace(discriminator, layers=layers(discriminator)),
    )


def _shared(spec: LayerSpec, kind: type) -> dict[str, Any]:
    """Return the fields of a layer that another layer type has, too."""
    names = {each.name for each in dataclasses.fields(kind)}
    return {name: value for name, value in spec.arguments().items() if name in names}


def _without_attention(spec: LayerSpec) -> list[LayerSpec]:
    if not isinstance(spec, FullAttentionSpec):
        return [spec]
    kind = ConvTransposeSpec if spec.transposed else ConvSpec
    return [kind(**_shared(spec, kind))]


def _at_the_image(change: Callable[[Any], Sequence[LayerSpec]]) -> Callable[[LayerSpec], Sequence[LayerSpec]]:
    """Apply a change only to the layer that outputs the image."""

    def changed(spec: LayerSpec) -> Sequence[LayerSpec]:
        makes_images = isinstance(spec, FullAttentionSpec) and spec.out_channels == IMAGE_CHANNELS
        return change(spec) if makes_images else [spec]

    return changed


def _with_shortcuts(architecture: Architecture) -> Architecture:
    """Put norm, activation and attention into residual blocks, in both networks."""
    generator, discriminator = architecture
    first, *others = generator.layers
    blocks: list[LayerSpec] = []
    for norm, activation, attention in zip(*[iter(others)] * 3, strict=True):
        is_block = isinstance(attention, FullAttentionSpec) and attention.upsample
        blocks += [_block(attention, "up", "rms")] if is_block else [norm, activation, attention]
    *down, last = discriminator.layers
    judges = [_block(attention, "down", "none") for attention in down]
    return (
        dataclasses.replace(generator, layers=(first, *blocks)),
        dataclasses.replace(discriminator, layers=(*judges, ActivationSpec(activation="leaky_relu(0.2)"), last)),
    )


def _block(attention: LayerSpec, resample: str, norm: str) -> FullAttentionBlockSpec:
    fields: dict[str, Any] = {"activation": "leaky_relu(0.2)", "resample": resample, "norm": norm}
    return FullAttentionBlockSpec(**_shared(attention, FullAttentionBlockSpec) | fields)


def _with_batch_norm(spec: LayerSpec) -> list[LayerSpec]:
    return [BatchNormSpec(in_channels=spec.in_channels)] if isinstance(spec, RMSNormSpec) else [spec]


def _without_norms(spec: LayerSpec) -> list[LayerSpec]:
    return [] if isinstance(spec, RMSNormSpec) else [spec]


def _transposed(spec: LayerSpec) -> list[LayerSpec]:
    """Upsample by transposed convolutions, as the original does."""
    if not isinstance(spec, FullAttentionSpec) or not spec.upsample:
        return [spec]
    pooling = max(1, spec.key_pooling // 2)
    return [dataclasses.replace(spec, **_DOUBLE, transposed=True, upsample=False, key_pooling=pooling)]


def _sagan(widths: Widths) -> Architecture:
    """Build convolutional blocks with self-attention on one feature map of each network, as in the paper."""
    generator, discriminator = _changed(_flagship(widths), _without_attention)
    g_layers, d_layers = list(generator.layers), list(discriminator.layers)
    g_layers.insert(7, SelfAttentionSpec(in_channels=widths[0][2]))  # both at 16x16
    d_layers.insert(1, SelfAttentionSpec(in_channels=widths[1][0]))
    return (
        dataclasses.replace(generator, layers=tuple(g_layers)),
        dataclasses.replace(discriminator, layers=tuple(d_layers)),
    )


def _classic(widths: Widths) -> Architecture:
    """Build FAGAN's original networks, one resolution lower: full attention first, self-attention before the rest."""
    (first, second, third, _), _ = widths
    latent = FLAGSHIP_32["latent_dim"]
    relu: dict[str, Any] = {"batch_norm": True, "activation": "relu"}
    up: dict[str, Any] = {"transposed": True, "activation": "leaky_relu(0.3)"}
    down: dict[str, Any] = {"activation": "leaky_relu(0.1)"}
    generator = (
        FullAttentionSpec(in_channels=latent, out_channels=first, **_ENDS, **up),
        FullAttentionSpec(in_channels=first, out_channels=second, **_DOUBLE, **up),
        SelfAttentionSpec(in_channels=second),
        ConvTransposeSpec(in_channels=second, out_channels=third, **_DOUBLE, **relu),
        SelfAttentionSpec(in_channels=third),
        ConvTransposeSpec(in_channels=third, out_channels=3, **_DOUBLE, spectral_norm=False, activation="tanh"),
    )
    discriminator: list[LayerSpec] = [
        FullAttentionSpec(in_channels=3, out_channels=third, **_DOUBLE, squeeze_factor=1, batch_norm=False, **down)
    ]
    for narrow, wide in pairwise((third, second, first)):
        discriminator += [
            SelfAttentionSpec(in_channels=narrow),
            ConvSpec(in_channels=narrow, out_channels=wide, **_DOUBLE, **down),
        ]
    discriminator.append(ConvSpec(in_channels=first, out_channels=1, **_ENDS, spectral_norm=False))
    return (
        GeneratorConfig(latent_dim=latent, image_size=SIZE, layers=generator),
        DiscriminatorConfig(image_size=SIZE, layers=tuple(discriminator)),
    )


ARMS = {
    "convolution": Arm(
        "convolutions only: the flagship without attention", lambda w: _changed(_flagship(w), _without_attention)
    ),
    "sagan": Arm("SAGAN: the same with self-attention on one feature map of each network", _sagan),
    "classic": Arm("original FAGAN: the original's networks and recipe", _classic, ORIGINAL),
    "flagship": Arm("flagship: every layer full attention", _flagship),
    "dot_product": Arm("… with dot products instead of cosines", lambda w: _flagship(w, similarity="dot_product")),
    "distance": Arm("… with distances (L2)", lambda w: _flagship(w, similarity="negative_distance")),
    "whole_keys": Arm("… without key pooling", lambda w: _flagship(w, keys=SIZE)),
    "half_keys": Arm("… with keys pooled by 2x2, as in SAGAN's own code", lambda w: _flagship(w, keys=SIZE // 2)),
    "two_heads": Arm("… with two heads", lambda w: _flagship(w, heads=2, squeeze_factor=4)),
    "shortcuts": Arm("… with residual blocks", lambda w: _with_shortcuts(_flagship(w))),
    "no_norm": Arm("… without norms", lambda w: _changed(_flagship(w), _without_norms)),
    "batch_norm": Arm("… with batch norm", lambda w: _changed(_flagship(w), _with_batch_norm)),
    "transposed": Arm("… with transposed convolutions", lambda w: _changed(_flagship(w), _transposed)),
    "hinge": Arm(
        "… with hinge loss and spectral norm",
        lambda w: _flagship(w, spectral_norm=True),
        {"loss": "hinge", "r1_gamma": 0, "r2_gamma": 0},
    ),
    "plain_image": Arm(
        "… with a convolution as output layer", lambda w: _changed(_flagship(w), _at_the_image(_without_attention))
    ),
    "gate_from_zero": Arm(
        "… with the output layer's gate starting at 0, too",
        lambda w: _changed(_flagship(w), _at_the_image(lambda spec: [dataclasses.replace(spec, initial_alpha=0.0)])),
    ),
    "classic_networks": Arm("… with FAGAN's own networks, same recipe", _classic),
    "approximate": Arm("… with approximated penalties", _flagship, {"approximate_penalties": True}),
    "decay": Arm("… with learning rates that decay after 3,000 images", _flagship, {"decay_after_images": 3000}),
    "beta_0.9": Arm("… with Adam's second beta 0.9", _flagship, {"betas": [0.0, 0.9]}),
    "beta_0.999": Arm("… with Adam's second beta 0.999", _flagship, {"betas": [0.0, 0.999]}),
    "augmented": Arm("… with images shifted at random (DiffAugment)", _flagship, {"augment": ["translation"]}),
    "slower_discriminator": Arm(
        "… with half the learning rate for the discriminator", _flagship, {"discriminator_learning_rate": 8e-4}
    ),
}
RIVALS = ("convolution", "sagan", "classic", "flagship")
CHOICES = tuple(arm for arm in ARMS if arm not in RIVALS)
"""The ablations: the flagship with one choice changed."""


def parameters(architecture: Architecture) -> int:
    """Count the parameters of both networks."""
    return count_parameters(Generator(architecture[0])) + count_parameters(Discriminator(architecture[1]))


def identity_of(arm: str) -> str:
    """Hash an arm's networks and recipe."""
    configs = [config.to_dict() for config in architecture_of(arm)]
    text = json.dumps([configs, {**RECIPE, **ARMS[arm].recipe}], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@cache
def architecture_of(arm: str) -> Architecture:
    """Build an arm's networks with as many parameters as the flagship, as closely as whole channels allow.

    Raises:
        ValueError: No widths come within `TOLERANCE`.
    """
    wanted = parameters(preset(FLAGSHIP))
    build = ARMS[arm].build
    if parameters(build(_WIDTHS)) == wanted:
        return build(_WIDTHS)

    def scaled(factor: float) -> Widths:
        generator, discriminator = (tuple(8 * max(1, round(w * factor / 8)) for w in each) for each in _WIDTHS)
        return generator, discriminator

    widths = list(dict.fromkeys(scaled(1 + step / 16) for step in range(-8, 33)))
    # The number of parameters grows with the channels, so the two nearest are on either side.
    index = bisect_left(widths, wanted, key=lambda each: parameters(build(each)))
    nearest = [build(each) for each in (_WIDTHS, *widths[max(0, index - 1) : index + 1])]
    found = min(nearest, key=lambda each: abs(parameters(each) - wanted))
    if abs(parameters(found) / wanted - 1) > TOLERANCE:
        raise ValueError(f"{arm}: {parameters(found):,} parameters are too far from {wanted:,}")
    return found
