"""Carry weights over to a network for other labels or image channels: all that these don't touch."""

import dataclasses
from typing import Any

from torch import Tensor

from fagan_hf.architectures.configs import DiscriminatorConfig, GeneratorConfig
from fagan_hf.models.hub_model import HubModel

_ABOUT_LABELS = ("label_names", "conditioning", "labels_at")


def fits(source: Any, wanted: Any) -> bool:
    """Return whether two configs of the same class differ in nothing but labels and image channels."""
    return _skeleton(source) == _skeleton(wanted)


def carry_over(source: HubModel, wanted: HubModel) -> tuple[dict[str, Tensor], list[str]]:
    """Combine the weights of a model with those of a new network.

    Args:
        source: The model.
        wanted: The network, whose config `fits`; it is not changed.

    Returns:
        A state dict for the network, and the names of its tensors that the model does not have in this shape: they keep
        their values.
    """
    state, known = wanted.state_dict(), source.state_dict()
    new = [name for name, tensor in state.items() if name not in known or known[name].shape != tensor.shape]
    return {name: tensor if name in new else known[name] for name, tensor in state.items()}, new


def layers_of(names: list[str]) -> list[str]:
    """Return the layers that tensors belong to, such as ``layers.3``, each once; other modules by their first name."""
    return list(dict.fromkeys(".".join(name.split(".")[: 2 if name.startswith("layers.") else 1]) for name in names))


def _skeleton(config: GeneratorConfig | DiscriminatorConfig) -> Any:
    """Return what must be equal: the config without labels and without the channels of images."""
    layers = [layer.to_dict() | {"num_labels": 0} for layer in config.layers]
    if isinstance(config, GeneratorConfig):
        layers[config.last_with_channels]["out_channels"] = None
    else:
        layers[config.first_with_channels]["in_channels"] = None
    rest = {
        each.name: getattr(config, each.name) for each in dataclasses.fields(config) if each.name not in _ABOUT_LABELS
    }
    return rest | {"layers": layers}
