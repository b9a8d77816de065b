"""Base class of both networks: a config turned into layers."""

import copy
import dataclasses
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fagan_hf.architectures.configs import DiscriminatorConfig, GeneratorConfig
from fagan_hf.architectures.own_code import source_of
from fagan_hf.architectures.presets import preset
from fagan_hf.architectures.specs import BUILT_IN, LayerSpec
from fagan_hf.layers import AttentionLayer, build_layer
from fagan_hf.models.hub_model import HubModel


class Network(HubModel):
    """A sequence of layers described by a config.

    Args:
        config: The architecture.

    Attributes:
        layers: Built from the config's layer specs, in order.

    Raises:
        ValueError: ``config`` is the other network's, or not a config.
    """

    def __init__(self, config: GeneratorConfig | DiscriminatorConfig):
        super().__init__(config)
        self.layers = nn.Sequential(*map(build_layer, config.layers))

    def _run(self, feature_map: Tensor, labels: Tensor | None, layers: slice = slice(None)) -> Tensor:
        """Apply some of the layers to a feature map, passing the labels to those that take them."""
        for spec, layer in zip(self.config.layers[layers], list(self.layers)[layers], strict=True):
            feature_map = layer(feature_map, labels) if spec.labels else layer(feature_map)
        return feature_map

    @classmethod
    def from_preset(cls, name: str) -> Self:
        """Create the untrained network of a preset; `fagan_hf.architectures.presets.PRESETS` lists the names.

        Raises:
            ValueError: There is no such preset.
        """
        [config] = [config for config in preset(name) if isinstance(config, cls.config_class)]
        return cls(config)

    def layer_facts(self) -> dict[str, Any]:
        """Return what a model card says about the layers.

        Returns:
            ``features``, the number of layers that compute features, unlike norms and activations; ``attending``, the
            types of those that contain attention layers, in order; ``imports``, for each type that is not built in what
            must be imported to register it.
        """
        layers = [*zip(self.config.layers, self.layers, strict=True)]
        attends = [any(isinstance(each, AttentionLayer) for each in layer.modules()) for _, layer in layers]
        specs = [spec for spec, _ in layers]
        return {
            "features": sum(each or hasattr(spec, "out_channels") for spec, each in zip(specs, attends, strict=True)),
            "attending": [spec.type for spec, each in zip(specs, attends, strict=True) if each],
            "imports": {spec.type: source_of(type(spec)) for spec in specs if type(spec) not in BUILT_IN},
        }

    @torch.no_grad()
    def fold(self) -> Self:
        """Make a copy for inference, in eval mode, with spectral norms folded into the weights.

        Each weight is divided by its norm once instead of in every call: the same output, faster. Folding can't be
        undone: publish the network itself, which keeps weights and norms separate so that training can be resumed.

        Returns:
            The copy, which shares no tensor with this network and is on its device, in its dtype. Its config has
            ``spectral_norm=False`` where a weight was folded, so it is saved and loaded like any other. What a config
            can't express stays parametrized: the projection of a conditional discriminator, and custom layers that
            normalize without a field `spectral_norm`.

        Example:
            >>> fast = generator.fold()  # doctest: +SKIP
        """
        folded = copy.deepcopy(self).eval()
        specs = []
        for index, spec in enumerate(self.config.layers):
            spec, folded.layers[index] = _folded(spec, folded.layers[index])
            specs.append(spec)
        folded.config = dataclasses.replace(self.config, layers=tuple(specs))
        return folded


def _folded(spec: LayerSpec, layer: nn.Module) -> tuple[LayerSpec, nn.Module]:
    """Return spec and layer without spectral norm; unchanged if the spec could not build the result."""
    if getattr(spec, "spectral_norm", None) is not True:
        return spec, layer
    plain_spec = dataclasses.replace(cast(Any, spec), spectral_norm=False)
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):  # initialization must not advance the global generator
        plain_names = build_layer(plain_spec).state_dict().keys()
    folded = copy.deepcopy(layer)
    for module in list(folded.modules()):
        if parametrize.is_parametrized(module):
            _fold_weights(module)
    return (plain_spec, folded) if folded.state_dict().keys() == plain_names else (spec, layer)


def _fold_weights(module: nn.Module) -> None:
    """Replace a module's parametrized weights by their values."""
    parametrizations: Any = module.parametrizations
    weights = {
        name: nn.Parameter(getattr(module, name), any(part.requires_grad for part in parts.parameters(recurse=False)))
        for name, parts in parametrizations.items()
    }
    # Not `parametrize.remove_parametrizations`: it removes the weight from the class, which a copy shares with the
    # original network.
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    for name, weight in weights.items():
        module.register_parameter(name, weight)
