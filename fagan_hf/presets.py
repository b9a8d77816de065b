"""One table: the name of an architecture -> its generator and its discriminator."""

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
from fagan_hf.suggest import suggest

# How a 4x4 kernel doubles or halves a feature map, and how it opens 1x1 to 4x4 or closes 4x4 to 1x1.
_DOUBLE: dict[str, Any] = {"kernel_size": 4, "stride": 2, "padding": 1}
_ENDS: dict[str, Any] = {"kernel_size": 4, "stride": 1, "padding": 0}


def _classic_64(
    *,
    generator_opens: tuple[LayerSpec, LayerSpec],
    discriminator_opens: LayerSpec,
    discriminator_middle: LayerSpec,
) -> tuple[GeneratorConfig, DiscriminatorConfig]:
    """Build the originals' networks, which differ in four layers: where FAGAN has full attention, SAGAN has none."""
    relu: dict[str, Any] = {"batch_norm": True, "activation": "relu"}
    generator = GeneratorConfig(
        latent_dim=128,
        image_size=64,
        layers=(
            *generator_opens,
            ConvTransposeSpec(in_channels=256, out_channels=128, **_DOUBLE, **relu),
            SelfAttentionSpec(in_channels=128),
            ConvTransposeSpec(in_channels=128, out_channels=64, **_DOUBLE, **relu),
            SelfAttentionSpec(in_channels=64),
            ConvTransposeSpec(in_channels=64, out_channels=3, **_DOUBLE, spectral_norm=False, activation="tanh"),
        ),
    )
    leaky: dict[str, Any] = {"activation": "leaky_relu(0.1)"}
    discriminator = DiscriminatorConfig(
        image_size=64,
        layers=(
            discriminator_opens,
            ConvSpec(in_channels=64, out_channels=128, **_DOUBLE, **leaky),
            discriminator_middle,
            SelfAttentionSpec(in_channels=256),
            ConvSpec(in_channels=256, out_channels=512, **_DOUBLE, **leaky),
            SelfAttentionSpec(in_channels=512),
            ConvSpec(in_channels=512, out_channels=1, **_ENDS, spectral_norm=False),
        ),
    )
    return generator, discriminator


_LEAKY_UP: dict[str, Any] = {"transposed": True, "activation": "leaky_relu(0.3)"}
_UP_BY_CONVOLUTION = ConvTransposeSpec(in_channels=128, out_channels=512, **_ENDS, batch_norm=True, activation="relu")
_DOWN_BY_CONVOLUTION = ConvSpec(in_channels=3, out_channels=64, **_DOUBLE, activation="leaky_relu(0.1)")


def _fagan_classic_64() -> tuple[GeneratorConfig, DiscriminatorConfig]:
    """FAGAN's own networks (its configurations fagan_1 and fagan_2), 8.09 M and 3.77 M parameters."""
    return _classic_64(
        generator_opens=(
            FullAttentionSpec(in_channels=128, out_channels=512, **_ENDS, **_LEAKY_UP),
            FullAttentionSpec(in_channels=512, out_channels=256, **_DOUBLE, **_LEAKY_UP),
        ),
        discriminator_opens=FullAttentionSpec(
            in_channels=3, out_channels=64, **_DOUBLE, squeeze_factor=1, batch_norm=False, activation="leaky_relu(0.1)"
        ),
        discriminator_middle=FullAttentionSpec(
            in_channels=128, out_channels=256, **_DOUBLE, activation="leaky_relu(0.3)"
        ),
    )


def _sagan_classic_64() -> tuple[GeneratorConfig, DiscriminatorConfig]:
    """SAGAN as attn-gan-pytorch has it (its sample 1): self-attention between convolutions."""
    relu: dict[str, Any] = {"batch_norm": True, "activation": "relu"}
    return _classic_64(
        generator_opens=(
            _UP_BY_CONVOLUTION,
            ConvTransposeSpec(in_channels=512, out_channels=256, **_DOUBLE, **relu),
        ),
        discriminator_opens=_DOWN_BY_CONVOLUTION,
        discriminator_middle=ConvSpec(in_channels=128, out_channels=256, **_DOUBLE, activation="leaky_relu(0.1)"),
    )


def _sample_64(*, is_normalised: bool) -> tuple[GeneratorConfig, DiscriminatorConfig]:
    """One layer of full attention in each network: attn-gan-pytorch's sample 2 (without norms) and sample 3 (with)."""
    norms: dict[str, Any] = {"spectral_norm": is_normalised, "batch_norm": is_normalised}
    return _classic_64(
        generator_opens=(
            _UP_BY_CONVOLUTION,
            FullAttentionSpec(in_channels=512, out_channels=256, **_DOUBLE, **_LEAKY_UP, **norms),
        ),
        discriminator_opens=_DOWN_BY_CONVOLUTION,
        discriminator_middle=FullAttentionSpec(
            in_channels=128, out_channels=256, **_DOUBLE, activation="leaky_relu(0.3)", **norms
        ),
    )


def _dcgan_64() -> tuple[GeneratorConfig, DiscriminatorConfig]:
    """DCGAN (arXiv:1511.06434): convolutions only, the baseline without attention."""
    up: dict[str, Any] = {"spectral_norm": False, "bias": False, "batch_norm": True, "activation": "relu"}
    down: dict[str, Any] = {"spectral_norm": False, "bias": False, "batch_norm": True, "activation": "leaky_relu(0.2)"}
    last: dict[str, Any] = {"spectral_norm": False, "bias": False}
    widths = (512, 256, 128, 64)
    pairs = list(pairwise(widths))
    generator = GeneratorConfig(
        latent_dim=100,
        image_size=64,
        layers=(
            ConvTransposeSpec(in_channels=100, out_channels=widths[0], **_ENDS, **up),
            *(ConvTransposeSpec(in_channels=wide, out_channels=narrow, **_DOUBLE, **up) for wide, narrow in pairs),
            ConvTransposeSpec(in_channels=widths[-1], out_channels=3, **_DOUBLE, **last, activation="tanh"),
        ),
    )
    discriminator = DiscriminatorConfig(
        image_size=64,
        layers=(
            ConvSpec(in_channels=3, out_channels=widths[-1], **_DOUBLE, **last, activation="leaky_relu(0.2)"),
            *(ConvSpec(in_channels=b, out_channels=a, **_DOUBLE, **down) for a, b in reversed(pairs)),
            ConvSpec(in_channels=widths[0], out_channels=1, **_ENDS, **last),
        ),
    )
    return generator, discriminator


def _every_layer_full_attention(
    *, image_size: int, latent_dim: int, widths: tuple[int, ...]
) -> tuple[GeneratorConfig, DiscriminatorConfig]:
    """FAGAN taken at its word: full attention wherever there is more than one position.

    Generator and discriminator mirror each other, with ``widths`` channels from the 4x4 feature map outwards.
    """
    pairs = list(pairwise(widths))
    up: dict[str, Any] = {"transposed": True, "activation": "leaky_relu(0.2)"}
    to_image: dict[str, Any] = {"transposed": True, "spectral_norm": False, "batch_norm": False, "activation": "tanh"}
    down: dict[str, Any] = {"batch_norm": False, "activation": "leaky_relu(0.2)"}
    generator = [
        FullAttentionSpec(in_channels=latent_dim, out_channels=widths[0], **_ENDS, **up),
        *(FullAttentionSpec(in_channels=wide, out_channels=narrow, **_DOUBLE, **up) for wide, narrow in pairs),
        FullAttentionSpec(in_channels=widths[-1], out_channels=3, **_DOUBLE, **to_image),
    ]
    discriminator = [
        FullAttentionSpec(in_channels=3, out_channels=widths[-1], **_DOUBLE, **down, squeeze_factor=1),
        *(FullAttentionSpec(in_channels=b, out_channels=a, **_DOUBLE, **down) for a, b in reversed(pairs)),
        # One position is left: attention over it would be a second convolution, so the logit is a plain one.
        ConvSpec(in_channels=widths[0], out_channels=1, **_ENDS),
    ]
    return (
        GeneratorConfig(latent_dim=latent_dim, image_size=image_size, layers=tuple(generator)),
        DiscriminatorConfig(image_size=image_size, layers=tuple(discriminator)),
    )


PRESETS: dict[str, tuple[GeneratorConfig, DiscriminatorConfig]] = {
    "fagan-32": _every_layer_full_attention(image_size=32, latent_dim=64, widths=(128, 96, 48)),
    "fagan-64": _every_layer_full_attention(image_size=64, latent_dim=128, widths=(256, 192, 96, 48)),
    "fagan-128": _every_layer_full_attention(image_size=128, latent_dim=128, widths=(256, 256, 192, 96, 32)),
    "fagan-classic-64": _fagan_classic_64(),
    "sagan-classic-64": _sagan_classic_64(),
    "sample-2-classic-64": _sample_64(is_normalised=False),
    "sample-3-classic-64": _sample_64(is_normalised=True),
    "dcgan-64": _dcgan_64(),
}


def preset(name: str) -> tuple[GeneratorConfig, DiscriminatorConfig]:
    """Look an architecture up.

    Raises:
        ValueError: There is no such preset; lists those that there are.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; {suggest(name, PRESETS)}")
    return PRESETS[name]
