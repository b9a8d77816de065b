"""Build our configs from the layers of a ``.conf``."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce

from fagan_hf.architectures.configs import DiscriminatorConfig, GeneratorConfig
from fagan_hf.architectures.specs import LayerSpec
from fagan_hf.models.legacy.conf import IGNORE_ATTENTION_MAPS, LegacyLayer

LARGEST_IMAGE_SIZE = 1024  # upper end of the search for a discriminator's image size [pixels]


def generator_config(layers: Sequence[LegacyLayer], label_names: Sequence[str] = ()) -> GeneratorConfig:
    """Build the config of a generator.

    Args:
        layers: Returned by `read_conf`.
        label_names: Labels of a conditional network, whose first layer takes them after the latent.

    Raises:
        ValueError: The layers don't lead from a 1x1 feature map to an image.
    """
    size = 1
    for layer in layers:
        try:
            size = layer.spec.output_size(size)
        except ValueError as error:
            raise ValueError(f"{layer.prefix} ({layer.spec.type}): {error}; is it a discriminator?") from error
    in_channels = next((layer.spec.channels[0] for layer in layers if layer.spec.channels is not None), 0)
    with _explaining_config("generator"):
        return GeneratorConfig(
            latent_dim=in_channels - len(label_names),
            image_size=size,
            layers=_specs(layers),
            label_names=tuple(label_names),
        )


def discriminator_config(
    layers: Sequence[LegacyLayer], label_names: Sequence[str] = (), image_size: int | None = None
) -> DiscriminatorConfig:
    """Build the config of a discriminator.

    Strides round down, so several image sizes may end at 1x1, and a ``.conf`` does not specify which one. We choose
    ``image_size`` if it is among them, else the largest power of two, else the smallest size.

    Args:
        layers: Returned by `read_conf`.
        label_names: Labels of a conditional network, whose last layer takes them after the features.
        image_size: The generator's image size [pixels], if known.

    Raises:
        ValueError: The layers don't lead from any image size to 1x1, or not to one channel.
    """
    fitting = [size for size in range(1, LARGEST_IMAGE_SIZE + 1) if _ends_at_one(layers, size)]
    if not fitting:
        raise ValueError(
            f"no image size from 1 to {LARGEST_IMAGE_SIZE} ends at 1x1, as required of a discriminator; "
            "is it a generator?"
        )
    powers = [size for size in fitting if size.bit_count() == 1]
    with _explaining_config("discriminator"):
        return DiscriminatorConfig(
            image_size=image_size if image_size in fitting else max(powers, default=fitting[0]),
            layers=_specs(layers),
            label_names=tuple(label_names),
        )


def _ends_at_one(layers: Iterable[LegacyLayer], size: int) -> bool:
    try:
        return reduce(lambda now, layer: layer.spec.output_size(now), layers, size) == 1
    except ValueError:  # some layer has an empty output
        return False


def _specs(layers: Iterable[LegacyLayer]) -> tuple[LayerSpec, ...]:
    return tuple(layer.spec for layer in layers)


@contextmanager
def _explaining_config(network: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(
            f"the layers don't form a {network}: {error}. Layer indices don't count {IGNORE_ATTENTION_MAPS}; a "
            "conditional network needs the names of its labels"
        ) from error
