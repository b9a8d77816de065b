"""The networks and recipes that `benchmarks/quality.py` compares: as many parameters, the same images and time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from fagan_hf.configs import (
    ConvSpec,
    ConvTransposeSpec,
    DiscriminatorConfig,
    FullAttentionSpec,
    GeneratorConfig,
    LayerSpec,
    SelfAttentionSpec,
)
from fagan_hf.models import Discriminator, Generator
from fagan_hf.presets import preset
from fagan_hf.repository import count_parameters

Architecture = tuple[GeneratorConfig, DiscriminatorConfig]

SIZE = 32
LATENT = 64
FLAGSHIP = "fagan-32"
TOLERANCE = 0.1
"""So far may the number of parameters be from the flagship's."""
_DOUBLE: dict[str, Any] = {"kernel_size": 4, "stride": 2, "padding": 1}
_ENDS: dict[str, Any] = {"kernel_size": 4, "stride": 1, "padding": 0}
_WIDTHS = (128, 96, 48)  # the flagship's; others have them times a factor


@dataclass(frozen=True)
class Arm:
    """One of what is compared.

    Attributes:
        about: What it is, for the table.
        build: Makes its networks from the channels of the 4x4, 8x8 and 16x16 feature maps.
        recipe: Fields of the recipe that differ from `RECIPE`.
    """

    about: str
    build: Callable[[Sequence[int]], Architecture]
    recipe: dict[str, Any] = field(default_factory=dict)


# What was found best for the flagship at this size, see docs/recipes.md.
RECIPE: dict[str, Any] = {
    "dataset": "avatars",
    "horizontal_flip": False,
    "loss": "relativistic_hinge",
    "batch_size": 16,
    "generator_learning_rate": 8e-4,
    "discriminator_learning_rate": 4e-4,
    "ema_half_life_images": 4000,
    "ema_ramp": 0.2,
}
# The original's: its learning rates and batch, and no averaging, which a half-life of one image comes to.
ORIGINAL: dict[str, Any] = {
    "batch_size": 32,
    "generator_learning_rate": 1e-4,
    "discriminator_learning_rate": 4e-4,
    "ema_half_life_images": 1,
}


def _convolutions(widths: Sequence[int], *, is_attending: bool) -> Architecture:
    """Convolutions only; or SAGAN's attention on top of the two largest feature maps as well."""
    up: dict[str, Any] = {"batch_norm": True, "activation": "relu"}
    down: dict[str, Any] = {"activation": "leaky_relu(0.2)"}
    first, *pairs = [(LATENT, widths[0]), *pairwise(widths)]
    generator: list[LayerSpec] = [ConvTransposeSpec(in_channels=first[0], out_channels=first[1], **_ENDS, **up)]
    discriminator: list[LayerSpec] = [ConvSpec(in_channels=3, out_channels=widths[-1], **_DOUBLE, **down)]
    for wide, narrow in pairs:
        generator.append(ConvTransposeSpec(in_channels=wide, out_channels=narrow, **_DOUBLE, **up))
        generator += [SelfAttentionSpec(in_channels=narrow)] if is_attending else []
    for wide, narrow in reversed(pairs):
        discriminator += [SelfAttentionSpec(in_channels=narrow)] if is_attending else []
        discriminator.append(ConvSpec(in_channels=narrow, out_channels=wide, **_DOUBLE, **down))
    generator.append(
        ConvTransposeSpec(in_channels=widths[-1], out_channels=3, **_DOUBLE, spectral_norm=False, activation="tanh")
    )
    discriminator.append(ConvSpec(in_channels=widths[0], out_channels=1, **_ENDS))
    return (
        GeneratorConfig(latent_dim=LATENT, image_size=SIZE, layers=tuple(generator)),
        DiscriminatorConfig(image_size=SIZE, layers=tuple(discriminator)),
    )


def _classic(widths: Sequence[int]) -> Architecture:
    """FAGAN's own networks with one size fewer: full attention in the first layers, SAGAN's before the last ones."""
    generator, discriminator = _convolutions(widths, is_attending=True)
    leaky: dict[str, Any] = {"transposed": True, "activation": "leaky_relu(0.3)"}
    opens = (
        FullAttentionSpec(in_channels=LATENT, out_channels=widths[0], **_ENDS, **leaky),
        FullAttentionSpec(in_channels=widths[0], out_channels=widths[1], **_DOUBLE, **leaky),
    )
    first = FullAttentionSpec(
        in_channels=3,
        out_channels=widths[-1],
        **_DOUBLE,
        squeeze_factor=1,
        batch_norm=False,
        activation="leaky_relu(0.1)",
    )
    return (
        GeneratorConfig(latent_dim=LATENT, image_size=SIZE, layers=(*opens, *generator.layers[2:])),
        DiscriminatorConfig(image_size=SIZE, layers=(first, *discriminator.layers[1:])),
    )


def _flagship(_: Sequence[int]) -> Architecture:
    return preset(FLAGSHIP)


ARMS = {
    "convolution": Arm("convolutions only", lambda widths: _convolutions(widths, is_attending=False)),
    "sagan": Arm("SAGAN: attention on two feature maps of each network", lambda w: _convolutions(w, is_attending=True)),
    "classic": Arm("FAGAN as it was: the original's networks and recipe", _classic, ORIGINAL),
    "flagship": Arm("every layer full attention", _flagship),
}


def parameters(architecture: Architecture) -> int:
    """Count the parameters of both networks."""
    return count_parameters(Generator(architecture[0])) + count_parameters(Discriminator(architecture[1]))


def architecture_of(arm: Arm) -> Architecture:
    """Build an arm's networks with as many parameters as the flagship's, as nearly as whole channels allow.

    Raises:
        ValueError: They can't be brought that near.
    """
    wanted = parameters(_flagship(_WIDTHS))
    if arm.build is _flagship:
        return _flagship(_WIDTHS)
    factors = [1 + step / 16 for step in range(-8, 25)]
    widths = [tuple(8 * max(1, round(width * factor / 8)) for width in _WIDTHS) for factor in factors]
    found = min((arm.build(each) for each in dict.fromkeys(widths)), key=lambda each: abs(parameters(each) - wanted))
    if abs(parameters(found) / wanted - 1) > TOLERANCE:
        raise ValueError(f"{arm.about}: {parameters(found):,} parameters are too far from {wanted:,}")
    return found
