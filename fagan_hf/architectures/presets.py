"""The presets: a table from the name of an architecture to its generator and discriminator."""

from itertools import pairwise
from typing import Any

from fagan_hf.architectures.configs import DiscriminatorConfig, GeneratorConfig
from fagan_hf.architectures.specs import (
    IMAGE_CHANNELS,
    ActivationSpec,
    ConvSpec,
    ConvTransposeSpec,
    FullAttentionSpec,
    LayerSpec,
    RMSNormSpec,
    SelfAttentionSpec,
)
from fagan_hf.utils.suggest import suggest

# A 4x4 kernel that doubles or halves a feature map, and one that maps 1x1 to 4x4 or 4x4 to 1x1.
_DOUBLE: dict[str, Any] = {"kernel_size": 4, "stride": 2, "padding": 1}
_ENDS: dict[str, Any] = {"kernel_size": 4, "stride": 1, "padding": 0}


def _classic_64(
    *,
    generator_opens: tuple[LayerSpec, LayerSpec],
    discriminator_opens: LayerSpec,
    discriminator_middle: LayerSpec,
) -> tuple[GeneratorConfig, DiscriminatorConfig]:
    """Build the original networks, which differ in four layers: where FAGAN has full attention, SAGAN has none."""
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


def _sample_64(*, is_normalized: bool) -> tuple[GeneratorConfig, DiscriminatorConfig]:
    """One layer of full attention in each network: attn-gan-pytorch's sample 2 (without norms) and sample 3 (with)."""
    norms: dict[str, Any] = {"spectral_norm": is_normalized, "batch_norm": is_normalized}
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


def every_layer_full_attention(
    *, image_size: int, latent_dim: int, widths: tuple[int, ...]
) -> tuple[GeneratorConfig, DiscriminatorConfig]:
    """Build the literal FAGAN: full attention wherever there is more than one position.

    Generator and discriminator mirror each other, with ``widths`` channels from the 4x4 feature map outward.
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
        # One position is left, where attention would just be a second convolution, so this one is plain.
        ConvSpec(in_channels=widths[0], out_channels=1, **_ENDS),
    ]
    return (
        GeneratorConfig(latent_dim=latent_dim, image_size=image_size, layers=tuple(generator)),
        DiscriminatorConfig(image_size=image_size, layers=tuple(discriminator)),
    )


def flagship(
    *,
    image_size: int,
    latent_dim: int,
    generator: tuple[int, ...],
    discriminator: tuple[int, ...],
    keys: int | None = None,
    spectral_norm: bool = False,
    **options: Any,
) -> tuple[GeneratorConfig, DiscriminatorConfig]:
    """Build our best architecture: full attention wherever there is more than one position; see docs/results.md.

    Args:
        image_size: Height and width of the images [pixels].
        latent_dim: Length of the latent vector.
        generator: Channels of the generator's feature maps, from the smallest to the image size, each twice as large as
            the one before.
        discriminator: Channels of the discriminator's feature maps, from half the image size to the smallest.
        keys: Height and width of the largest map of keys [positions]; larger ones are pooled to it. By default an
            eighth of the image size, so that a key represents 8x8 pixels; or the next smaller map.
        spectral_norm: Whether both networks use spectral norm; for hinge losses, because penalties don't need it.
        options: Fields to override in all attention layers, such as ``similarity``. The layers next to the image always
            have one head, because an image has too few channels for more.

    Raises:
        ValueError: The image size can't be halved that often, or the discriminator has another number of maps.
    """
    halvings = len(generator) - 1
    smallest, rest = divmod(image_size, 2**halvings)
    if rest or not smallest:
        raise ValueError(
            f"image_size is {image_size}, which {len(generator)} feature maps don't reach: it must be a multiple of "
            f"{2**halvings}. Use {_multiples_around(image_size, 2**halvings)}, or fewer maps"
        )
    if len(discriminator) != halvings:
        raise ValueError(
            f"the generator has {len(generator)} feature maps and the discriminator {len(discriminator)}; it must have "
            f"one fewer, {halvings}, because its first layer halves the image"
        )
    sizes = [smallest * 2**index for index in range(len(generator))]
    largest = keys or max(size for size in sizes if size <= max(smallest, image_size // 8))

    def attention(in_channels: int, out_channels: int, keys_from: int, **fields: Any) -> FullAttentionSpec:
        defaults: dict[str, Any] = {"similarity": "cosine", "batch_norm": False, "activation": "identity"}
        defaults |= {"spectral_norm": spectral_norm, "key_pooling": max(1, keys_from // largest)}
        return FullAttentionSpec(
            in_channels=in_channels, out_channels=out_channels, **{**defaults, **options, **fields}
        )

    def normalized(channels: int) -> tuple[LayerSpec, LayerSpec]:
        return RMSNormSpec(in_channels=channels), ActivationSpec(activation="leaky_relu(0.2)")

    kernel: dict[str, Any] = {"kernel_size": 3, "padding": 1}
    # A doubled map contains no more information than the map, so keys never come from the doubled one.
    doubled: dict[str, Any] = {**kernel, "upsample": True}
    ends: dict[str, Any] = {**_ENDS, "kernel_size": smallest}
    up: list[LayerSpec] = [attention(latent_dim, generator[0], 1, **ends, transposed=True)]
    for (wide, narrow), size in zip(pairwise(generator), sizes[1:], strict=True):
        up += [*normalized(wide), attention(wide, narrow, max(size, 2 * largest), **doubled)]
    to_image: dict[str, Any] = {"spectral_norm": False, "activation": "tanh", "heads": 1}
    # If a gate starts at 0 and happens to become negative here, colors leave their range and it stays negative.
    to_image["initial_alpha"] = 0.1
    up += [*normalized(generator[-1]), attention(generator[-1], IMAGE_CHANNELS, image_size, **kernel, **to_image)]

    judging: dict[str, Any] = {"activation": "leaky_relu(0.2)"}
    down: list[LayerSpec] = [
        attention(IMAGE_CHANNELS, discriminator[0], image_size // 2, **_DOUBLE, **judging, squeeze_factor=1, heads=1)
    ]
    for (narrow, wide), size in zip(pairwise(discriminator), reversed(sizes[:-2]), strict=True):
        down.append(attention(narrow, wide, size, **_DOUBLE, **judging))
    # One position is left, where attention would just be a second convolution, so this one is plain.
    down.append(ConvSpec(in_channels=discriminator[-1], out_channels=1, **ends, spectral_norm=spectral_norm))
    return (
        GeneratorConfig(latent_dim=latent_dim, image_size=image_size, layers=tuple(up)),
        DiscriminatorConfig(image_size=image_size, layers=tuple(down)),
    )


FLAGSHIP_32: dict[str, Any] = {
    "image_size": 32,
    "latent_dim": 64,
    "generator": (192, 96, 48, 24),
    "discriminator": (32, 64, 128),
}
_FLAGSHIP_64: dict[str, Any] = {
    "image_size": 64,
    "latent_dim": 128,
    "generator": (512, 384, 256, 128, 64),
    "discriminator": (64, 128, 256, 384),
}
FLAGSHIP_64_SMALL: dict[str, Any] = {
    "image_size": 64,
    "latent_dim": 64,
    "generator": (256, 128, 64, 32, 16),
    "discriminator": (24, 48, 96, 192),
}
_FLAGSHIP_128: dict[str, Any] = {
    "image_size": 128,
    "latent_dim": 128,
    "generator": (512, 384, 256, 128, 64, 32),
    "discriminator": (32, 64, 128, 256, 384),
}
_FLAGSHIP_256: dict[str, Any] = {
    "image_size": 256,
    "latent_dim": 128,
    "generator": (512, 384, 256, 128, 64, 32, 16),
    "discriminator": (16, 32, 64, 128, 256, 384),
}
_FLAGSHIP_256_SMALL: dict[str, Any] = {
    "image_size": 256,
    "latent_dim": 64,
    "generator": (256, 128, 64, 48, 32, 16, 16),
    "discriminator": (16, 32, 48, 64, 96, 192),
}

PRESETS: dict[str, tuple[GeneratorConfig, DiscriminatorConfig]] = {
    "fagan-32": flagship(**FLAGSHIP_32),
    "fagan-64": flagship(**_FLAGSHIP_64),
    "fagan-64-small": flagship(**FLAGSHIP_64_SMALL),
    "fagan-128": flagship(**_FLAGSHIP_128),
    "fagan-256": flagship(**_FLAGSHIP_256),
    "fagan-256-small": flagship(**_FLAGSHIP_256_SMALL),
    "fagan-plain-32": every_layer_full_attention(image_size=32, latent_dim=64, widths=(128, 96, 48)),
    "fagan-plain-64": every_layer_full_attention(image_size=64, latent_dim=128, widths=(256, 192, 96, 48)),
    "fagan-plain-128": every_layer_full_attention(image_size=128, latent_dim=128, widths=(256, 256, 192, 96, 32)),
    "fagan-classic-64": _fagan_classic_64(),
    "sagan-classic-64": _sagan_classic_64(),
    "sample-2-classic-64": _sample_64(is_normalized=False),
    "sample-3-classic-64": _sample_64(is_normalized=True),
    "dcgan-64": _dcgan_64(),
}


def preset(name: str) -> tuple[GeneratorConfig, DiscriminatorConfig]:
    """Return the architecture of a preset.

    Raises:
        ValueError: There is no such preset; lists the existing ones.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; {suggest(name, PRESETS)}")
    return PRESETS[name]


def _multiples_around(number: int, divisor: int) -> str:
    """Return the multiples on both sides of a number that is none, in words."""
    below = number // divisor * divisor
    return " or ".join(str(each) for each in (below, below + divisor) if each)
