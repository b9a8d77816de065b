"""Convert networks of attn-gan-pytorch 1.2.3, the original, from its ``.conf`` files and its ``GAN_GEN_10.pth``."""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import TypeVar

import torch

from fagan_hf.models.discriminator import Discriminator
from fagan_hf.models.generator import Generator
from fagan_hf.models.legacy.conf import LegacyLayer, naming, quoted, read_conf
from fagan_hf.models.legacy.configs import discriminator_config, generator_config
from fagan_hf.models.legacy.weights import convert_state_dict, read_state_dict

_Network = TypeVar("_Network", Generator, Discriminator)


def convert(
    generator_conf: str | Path,
    generator_weights: str | Path,
    discriminator_conf: str | Path | None = None,
    discriminator_weights: str | Path | None = None,
    label_names: Sequence[str] = (),
) -> tuple[Generator, Discriminator | None]:
    """Build networks with the same outputs as the original's in eval mode.

    Args:
        generator_conf: The generator's ``.conf``.
        generator_weights: Its weights, as saved by the original's training (``GAN_GEN_10.pth``).
        discriminator_conf: The discriminator's ``.conf``; ``None`` for no discriminator.
        discriminator_weights: Its weights (``GAN_DIS_10.pth``).
        label_names: For conditional networks, a name for each component of the label vectors, in order.

    Returns:
        Generator and discriminator in eval mode, in the dtype of the weights.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A ``.conf`` can't be read, its layers don't form such a network, or weights are refused or don't fit
            their ``.conf``; says which file.
    """
    if (discriminator_conf is None) != (discriminator_weights is None):
        raise ValueError(
            f"discriminator_conf is {quoted(discriminator_conf)} and discriminator_weights "
            f"{quoted(discriminator_weights)}; give both or neither"
        )
    layers = read_conf(generator_conf)
    with naming(generator_conf):
        generator = Generator(generator_config(layers, label_names))
    _load(generator, layers, generator_weights)
    if discriminator_conf is None or discriminator_weights is None:
        return generator, None
    layers = read_conf(discriminator_conf)
    image_size = generator.config.image_size
    with naming(discriminator_conf):
        discriminator = Discriminator(discriminator_config(layers, label_names, image_size))
        if discriminator.config.image_size != image_size:
            size = discriminator.config.image_size
            raise ValueError(
                f"it takes {size}x{size} images, but {generator_conf} generates {image_size}x{image_size}; "
                "give two networks that were trained together"
            )
    if label_names:
        layers = (*layers[:-1], replace(layers[-1], prefix="last_module"))
    _load(discriminator, layers, discriminator_weights)
    return generator, discriminator


def _load(network: _Network, layers: Sequence[LegacyLayer], path: str | Path) -> None:
    state = read_state_dict(path)
    with naming(path):
        converted = convert_state_dict(state, layers, network.state_dict())
    # The widest dtype among them, so that nothing is rounded.
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in state.values() if tensor.is_floating_point()))
    network.to(dtype).load_state_dict(converted)
    network.eval()
