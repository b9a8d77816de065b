"""Adapt an architecture to data: its labels, and the channels of its images."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from fagan_hf.architectures.configs import Architecture
from fagan_hf.architectures.specs import ConvSpec, LayerSpec
from fagan_hf.utils.image_forms import IMAGE_FORMS

Conditioning = Literal["concatenation", "projection"]

_COMPARE: dict[str, Any] = {"kernel_size": 1, "activation": "leaky_relu(0.2)"}


def with_image_channels(architecture: Architecture, channels: int) -> Architecture:
    """Make both networks work on grayscale, RGB or RGBA images.

    Args:
        architecture: Two networks for images of the same channels.
        channels: 1 for grayscale, 3 for RGB, 4 for RGBA with premultiplied alpha.

    Raises:
        ValueError: The number of channels is not allowed, or the layers at the image can't have it.
    """
    generator, discriminator = architecture
    if type(channels) is not int or channels not in IMAGE_FORMS:
        raise ValueError(f"channels is {channels!r}; it must be 1 (grayscale), 3 (RGB) or 4 (RGBA)")
    if generator.image_channels == discriminator.image_channels == channels:
        return architecture
    g_layers, d_layers = list(generator.layers), list(discriminator.layers)
    last, first = generator.last_with_channels, discriminator.first_with_channels
    inputs = d_layers[first].channels or (discriminator.image_channels, 0)
    extra = inputs[0] - discriminator.image_channels  # labels that enter with the image
    try:
        g_layers[last] = dataclasses.replace(g_layers[last], out_channels=channels)  # pyright: ignore[reportCallIssue]
        d_layers[first] = dataclasses.replace(d_layers[first], in_channels=channels + extra)  # pyright: ignore
    except (TypeError, ValueError) as error:
        raise ValueError(f"the architecture can't be changed to images of {channels} channels: {error}") from error
    return (
        dataclasses.replace(generator, layers=tuple(g_layers)),
        dataclasses.replace(discriminator, layers=tuple(d_layers)),
    )


def with_labels(architecture: Architecture, label_names: Sequence[str], conditioning: Conditioning) -> Architecture:
    """Make an architecture conditional.

    Args:
        architecture: Two unconditional networks; or conditional ones, returned unchanged if their labels are the same.
        label_names: Names of the components of a label vector.
        conditioning: ``"projection"``: conditional batch norm in the generator, and a projection discriminator (Miyato
            and Koyama, arXiv:1802.05637). ``"concatenation"``, as in the original: labels are concatenated to the
            latent, and to the discriminator's last features. There a 1x1 convolution with an activation is inserted
            before the last layer, as in Reed et al. (arXiv:1605.05396): the last layer alone would only add the
            contributions of labels and image without relating them. A discriminator with an explicit `labels_at` gets
            them there instead.

    Raises:
        ValueError: The networks already have other labels; or the generator has no batch norm for ``"projection"``.
    """
    label_names = tuple(label_names)
    present = {config.label_names for config in architecture}
    if present == {label_names}:
        return architecture
    if present != {()}:
        raise ValueError(
            f"the architecture has the labels {sorted(map(list, present))}, but the data {list(label_names)}; "
            "leave label_names out of the architecture, or use the same labels"
        )
    generator, discriminator = architecture
    count = len(label_names)
    if conditioning == "concatenation":
        g_layers, d_layers = list(generator.layers), list(discriminator.layers)
        g_layers[0] = _widened(g_layers[0], count)
        labels_at, g_conditioning = discriminator.labels_at, "concatenation"
        if labels_at == -1:
            channels = discriminator.features_channels
            d_layers.insert(-1, ConvSpec(in_channels=channels + count, out_channels=channels, **_COMPARE))
            labels_at = -2
        else:
            d_layers[labels_at] = _widened(d_layers[labels_at], count)
    else:
        d_layers, labels_at, g_conditioning = list(discriminator.layers), discriminator.labels_at, "batch_norm"
        g_layers = [_steered(layer, count) for layer in generator.layers]
        if not any(layer.labels for layer in g_layers):
            raise ValueError(
                "conditioning is 'projection', but no layer of the generator has a batch norm to condition on labels; "
                "use 'concatenation'"
            )
    return (
        dataclasses.replace(generator, layers=tuple(g_layers), label_names=label_names, conditioning=g_conditioning),
        dataclasses.replace(
            discriminator,
            layers=tuple(d_layers),
            label_names=label_names,
            conditioning=conditioning,
            labels_at=labels_at,
        ),
    )


def _widened(layer: Any, count: int) -> LayerSpec:
    if not hasattr(layer, "in_channels"):
        raise ValueError(f"labels can't be concatenated to the input of a {layer.type!r}: it has no in_channels")
    return dataclasses.replace(layer, in_channels=layer.in_channels + count)


def _steered(layer: Any, count: int) -> LayerSpec:
    is_normalized = getattr(layer, "batch_norm", True) and getattr(layer, "norm", None) != "none"
    takes_labels = hasattr(layer, "num_labels") and is_normalized
    return dataclasses.replace(layer, num_labels=count) if takes_labels else layer
