"""Carry weights over to a network for other labels, image channels or image sizes."""

import dataclasses
from itertools import takewhile
from typing import Any, NamedTuple

from torch import Tensor

from fagan_hf.architectures.configs import DiscriminatorConfig, GeneratorConfig
from fagan_hf.models.hub_model import HubModel
from fagan_hf.training.run.image_channels import convert

_ABOUT_LABELS = ("label_names", "conditioning", "labels_at")
_WITHOUT_WEIGHTS = ("key_pooling",)  # fields of layers that change with the size of a map, but have no weights

Config = GeneratorConfig | DiscriminatorConfig


class Carried(NamedTuple):
    """Weights of a model for another network.

    Attributes:
        weights: A state dict for the network.
        converted: Names of tensors that were converted to other image channels.
        new: Names of tensors that the model does not have in any such form: they are the network's own.
    """

    weights: dict[str, Tensor]
    converted: list[str]
    new: list[str]


def fits(source: Any, wanted: Any) -> bool:
    """Return whether two configs of the same class differ in nothing but labels, image channels and image size.

    For another size, a generator may have more or fewer layers at its end, a discriminator at its beginning: one of the
    two has a single layer there, from or to the image, which the other does not have.
    """
    return _shared_layers(source, wanted) is not None


def carry_over(source: HubModel, wanted: HubModel) -> Carried:
    """Combine the weights of a model with those of a new network.

    Args:
        source: The model.
        wanted: The network, whose config `fits`; it is not changed.
    """
    shared = _shared_layers(source.config, wanted.config)
    assert shared is not None, "fits"
    state, known = wanted.state_dict(), source.state_dict()

    def of_source(name: str) -> Tensor | None:
        kind, _, rest = name.partition(".")
        if kind != "layers":
            return known.get(name)
        index, _, rest = rest.partition(".")
        return known.get(f"layers.{shared[int(index)]}.{rest}") if int(index) in shared else None

    carried = {name: found for name in state if (found := of_source(name)) is not None}
    converted = _convert(source, wanted, shared)
    carried |= converted
    new = [name for name, tensor in state.items() if name not in carried or carried[name].shape != tensor.shape]
    weights = {name: tensor if name in new else carried[name] for name, tensor in state.items()}
    return Carried(weights, [*converted], new)


def layers_of(names: list[str]) -> list[str]:
    """Return the layers that tensors belong to, such as ``layers.3``, each once; other modules by their first name."""
    return list(dict.fromkeys(".".join(name.split(".")[: 2 if name.startswith("layers.") else 1]) for name in names))


def _convert(source: HubModel, wanted: HubModel, shared: dict[int, int]) -> dict[str, Tensor]:
    """Convert the layer next to the image, if it is shared."""
    config: Config = wanted.config
    index = config.last_with_channels if isinstance(config, GeneratorConfig) else config.first_with_channels
    if index not in shared:
        return {}
    old, new = source.get_submodule(f"layers.{shared[index]}"), wanted.get_submodule(f"layers.{index}")
    return {f"layers.{index}.{name}": tensor for name, tensor in convert(old.state_dict(), old, new).items()}


def _shared_layers(source: Config, wanted: Config) -> dict[int, int] | None:
    """Map the index of each layer of `wanted` to that of `source` that it continues; ``None`` if they don't fit."""
    if _apart_from_layers(source) != _apart_from_layers(wanted):
        return None
    if source.image_size == wanted.image_size:
        same = _layers(source) == _layers(wanted)
        return {index: index for index in range(len(wanted.layers))} if same else None
    is_generator = isinstance(source, GeneratorConfig)
    # From the end that is away from the image: there both have the same maps.
    one, other = (_layers(each, *_WITHOUT_WEIGHTS)[:: 1 if is_generator else -1] for each in (source, wanted))
    count = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    left = [sum("in_channels" in layer and "out_channels" in layer for layer in each[count:]) for each in (one, other)]
    if not count or min(left) != 1:
        return None
    if is_generator:
        return {index: index for index in range(count)}
    return {len(other) - 1 - index: len(one) - 1 - index for index in range(count)}


def _layers(config: Config, *ignored: str) -> list[dict[str, Any]]:
    """Return the layers as data, without labels and without the channels of images."""
    layers = [
        {key: value for key, value in layer.to_dict().items() if key not in ignored} | {"num_labels": 0}
        for layer in config.layers
    ]
    if isinstance(config, GeneratorConfig):
        layers[config.last_with_channels]["out_channels"] = None
    else:
        layers[config.first_with_channels]["in_channels"] = None
    return layers


def _apart_from_layers(config: Config) -> dict[str, Any]:
    names = {each.name for each in dataclasses.fields(config)} - {*_ABOUT_LABELS, "layers", "image_size"}
    return {name: getattr(config, name) for name in names} | {"class": type(config)}
