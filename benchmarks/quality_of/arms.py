"""The networks and recipes that `benchmarks/quality.py` compares at equal numbers of parameters, images and work."""

import dataclasses
import hashlib
import json
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any

import torch

from fagan_hf.architectures.configs import DiscriminatorConfig, GeneratorConfig
from fagan_hf.architectures.presets import FLAGSHIP_32, FLAGSHIP_64_SMALL, flagship, preset
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
from fagan_hf.training.recipe_files import find_recipe, read_recipe_file

Architecture = tuple[GeneratorConfig, DiscriminatorConfig]
Arguments = dict[str, Any]
"""Arguments of `presets.flagship`."""

FLAGSHIPS: dict[int, tuple[str, dict[str, Any]]] = {
    32: ("fagan-32", FLAGSHIP_32),
    64: ("fagan-64-small", FLAGSHIP_64_SMALL),
}
"""The flagship of each image size: its preset, and the arguments of `presets.flagship` that make it."""
TOLERANCE = 0.1
"""Largest relative difference in the number of parameters from the flagship."""
_DOUBLE: dict[str, Any] = {"kernel_size": 4, "stride": 2, "padding": 1}
_ENDS: dict[str, Any] = {"kernel_size": 4, "stride": 1, "padding": 0}


@dataclass(frozen=True)
class Arm:
    """One arm of the comparison.

    Attributes:
        about: Description for the table.
        build: Makes its networks from the arguments that make the flagship of a size, with other channels.
        recipe: Fields of the recipe that differ from the flagship's.
    """

    about: str
    build: Callable[[Arguments], Architecture]
    recipe: dict[str, Any] = field(default_factory=dict)


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


def _flagship(arguments: Arguments, **options: Any) -> Architecture:
    return flagship(**{**arguments, **options})


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


def _sagan(arguments: Arguments) -> Architecture:
    """Build convolutional blocks with self-attention on one feature map of each network, as in the paper."""
    generator, discriminator = _changed(_flagship(arguments), _without_attention)
    g_layers, d_layers = list(generator.layers), list(discriminator.layers)
    # Both at half the image size: three layers for each of the generator's maps, the first without norm and activation.
    g_layers.insert(3 * len(arguments["generator"]) - 5, SelfAttentionSpec(in_channels=arguments["generator"][-2]))
    d_layers.insert(1, SelfAttentionSpec(in_channels=arguments["discriminator"][0]))
    return (
        dataclasses.replace(generator, layers=tuple(g_layers)),
        dataclasses.replace(discriminator, layers=tuple(d_layers)),
    )


def _classic(arguments: Arguments) -> Architecture:
    """Build FAGAN's original networks: full attention in the first layers, self-attention before each of the others."""
    widths, latent, size = arguments["generator"][:-1], arguments["latent_dim"], arguments["image_size"]
    relu: dict[str, Any] = {"batch_norm": True, "activation": "relu"}
    up: dict[str, Any] = {"transposed": True, "activation": "leaky_relu(0.3)"}
    down: dict[str, Any] = {"activation": "leaky_relu(0.1)"}
    generator: list[LayerSpec] = [
        FullAttentionSpec(in_channels=latent, out_channels=widths[0], **_ENDS, **up),
        FullAttentionSpec(in_channels=widths[0], out_channels=widths[1], **_DOUBLE, **up),
    ]
    for wide, narrow in pairwise(widths[1:]):
        generator += [
            SelfAttentionSpec(in_channels=wide),
            ConvTransposeSpec(in_channels=wide, out_channels=narrow, **_DOUBLE, **relu),
        ]
    to_image: dict[str, Any] = {"spectral_norm": False, "activation": "tanh"}
    generator += [
        SelfAttentionSpec(in_channels=widths[-1]),
        ConvTransposeSpec(in_channels=widths[-1], out_channels=3, **_DOUBLE, **to_image),
    ]
    opens: dict[str, Any] = {"squeeze_factor": 1, "batch_norm": False}
    discriminator: list[LayerSpec] = [
        FullAttentionSpec(in_channels=3, out_channels=widths[-1], **_DOUBLE, **opens, **down)
    ]
    for narrow, wide in pairwise(reversed(widths)):
        discriminator += [
            SelfAttentionSpec(in_channels=narrow),
            ConvSpec(in_channels=narrow, out_channels=wide, **_DOUBLE, **down),
        ]
    discriminator.append(ConvSpec(in_channels=widths[0], out_channels=1, **_ENDS, spectral_norm=False))
    return (
        GeneratorConfig(latent_dim=latent, image_size=size, layers=tuple(generator)),
        DiscriminatorConfig(image_size=size, layers=tuple(discriminator)),
    )


ARMS = {
    "convolution": Arm(
        "convolutions only: the flagship without attention", lambda a: _changed(_flagship(a), _without_attention)
    ),
    "sagan": Arm("SAGAN: the same with self-attention on one feature map of each network", _sagan),
    "classic": Arm("original FAGAN: the original's networks and recipe", _classic, ORIGINAL),
    "flagship": Arm("flagship: every layer full attention", _flagship),
    "dot_product": Arm("… with dot products instead of cosines", lambda a: _flagship(a, similarity="dot_product")),
    "distance": Arm("… with distances (L2)", lambda a: _flagship(a, similarity="negative_distance")),
    "whole_keys": Arm("… without key pooling", lambda a: _flagship(a, keys=a["image_size"])),
    "half_keys": Arm(
        "… with keys pooled by 2x2, as in SAGAN's own code", lambda a: _flagship(a, keys=a["image_size"] // 2)
    ),
    "two_heads": Arm("… with two heads", lambda a: _flagship(a, heads=2, squeeze_factor=4)),
    "shortcuts": Arm("… with residual blocks", lambda a: _with_shortcuts(_flagship(a))),
    "no_norm": Arm("… without norms", lambda a: _changed(_flagship(a), _without_norms)),
    "batch_norm": Arm("… with batch norm", lambda a: _changed(_flagship(a), _with_batch_norm)),
    "transposed": Arm("… with transposed convolutions", lambda a: _changed(_flagship(a), _transposed)),
    "hinge": Arm(
        "… with hinge loss and spectral norm",
        lambda a: _flagship(a, spectral_norm=True),
        {"loss": "hinge", "r1_gamma": 0, "r2_gamma": 0},
    ),
    "plain_image": Arm(
        "… with a convolution as output layer", lambda a: _changed(_flagship(a), _at_the_image(_without_attention))
    ),
    "gate_from_zero": Arm(
        "… with the output layer's gate starting at 0, too",
        lambda a: _changed(_flagship(a), _at_the_image(lambda spec: [dataclasses.replace(spec, initial_alpha=0.0)])),
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


def recipe_of(arm: str, size: int, dataset: str) -> dict[str, Any]:
    """Return the fields of an arm's recipe: those of our recipe for such images, changed as the arm says.

    Args:
        arm: A key of `ARMS`.
        size: Height and width of the images [pixels].
        dataset: ``"avatars"``, or a folder or archive of images.
    """
    fields = read_recipe_file(find_recipe(f"{'avatars' if dataset == 'avatars' else 'folder'}-{size}"))
    kept = {
        name: value
        for name, value in fields.items()
        if name not in ("name", "model", "max_minutes", "max_images") and not name.endswith("_every_images")
    }
    return kept | ARMS[arm].recipe | {"dataset": dataset}


def parameters(architecture: Architecture) -> int:
    """Count the parameters of both networks."""
    with torch.device("meta"):  # nothing is initialized
        return count_parameters(Generator(architecture[0])) + count_parameters(Discriminator(architecture[1]))


def identity_of(arm: str, size: int, dataset: str) -> str:
    """Hash an arm's networks and recipe."""
    configs = [config.to_dict() for config in architecture_of(arm, size)]
    fields = recipe_of(arm, size, dataset)
    text = json.dumps([configs, fields | {"dataset": dataset == "avatars"}], sort_keys=True)  # wherever others lie
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@cache
def architecture_of(arm: str, size: int) -> Architecture:
    """Build an arm's networks with as many parameters as the flagship, as closely as whole channels allow.

    Raises:
        ValueError: No widths come within `TOLERANCE`.
    """
    name, arguments = FLAGSHIPS[size]
    wanted = parameters(preset(name))
    build = ARMS[arm].build
    if parameters(build(arguments)) == wanted:
        return build(arguments)

    def scaled(factor: float) -> Arguments:
        widths = {
            network: tuple(8 * max(1, round(width * factor / 8)) for width in arguments[network])
            for network in ("generator", "discriminator")
        }
        return arguments | widths

    steps = [scaled(1 + step / 16) for step in range(-8, 33)]
    candidates = [each for index, each in enumerate(steps) if each not in steps[:index]]
    # The number of parameters grows with the channels, so the two nearest are on either side.
    index = bisect_left(candidates, wanted, key=lambda each: parameters(build(each)))
    nearest = [build(each) for each in (arguments, *candidates[max(0, index - 1) : index + 1])]
    found = min(nearest, key=lambda each: abs(parameters(each) - wanted))
    if abs(parameters(found) / wanted - 1) > TOLERANCE:
        raise ValueError(f"{arm}: {parameters(found):,} parameters are too far from {wanted:,}")
    return found
