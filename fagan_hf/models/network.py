"""What both networks are: a config turned into layers."""

import copy
import dataclasses
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fagan_hf.architectures.configs import DiscriminatorConfig, GeneratorConfig
from fagan_hf.architectures.presets import preset
from fagan_hf.architectures.specs import LayerSpec
from fagan_hf.layers import build_layer
from fagan_hf.models.hub_model import HubModel


class Network(HubModel):
    """Layers, one after the other, as a config describes them.

    Args:
        config: The architecture.

    Attributes:
        layers: Built from the config's layer specs, in their order.

    Raises:
        ValueError: ``config`` is the other network's, or none.
    """

    def __init__(self, config: GeneratorConfig | DiscriminatorConfig):
        super().__init__(config)
        self.layers = nn.Sequential(*map(build_layer, config.layers))

    def _run(self, feature_map: Tensor, labels: Tensor | None, layers: slice = slice(None)) -> Tensor:
        """Send a feature map through some of the layers, with the labels for those that take them."""
        for spec, layer in zip(self.config.layers[layers], list(self.layers)[layers], strict=True):
            feature_map = layer(feature_map, labels) if spec.labels else layer(feature_map)
        return feature_map

    @classmethod
    def from_preset(cls, name: str) -> Self:
        """Make the untrained network of a preset; `fagan_hf.architectures.presets.PRESETS` has the names.

        Raises:
            ValueError: There is no such preset.
        """
        [config] = [config for config in preset(name) if isinstance(config, cls.config_class)]
        return cls(config)

    @torch.no_grad()
    def fold(self) -> Self:
        """Make a copy for inference, in eval mode, whose spectrally normalized weights are plain numbers.

        Each weight is divided by its norm once, not in every call: the same output, sooner. Folding can't be undone:
        publish the network itself, which keeps weights and norms apart so that its training can go on.

        Returns:
            The copy, which shares no tensor with this network and is on its device, in its dtype. Its config says
            ``spectral_norm=False`` where a weight was folded, so it is saved and loaded like any other. What a config
            can't say stays parametrized: the projection of a conditional discriminator, and layers of others that
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
    """Give spec and layer without spectral norm; as they are where the spec could not build what would remain."""
    if getattr(spec, "spectral_norm", None) is not True:
        return spec, layer
    plain_spec = dataclasses.replace(cast(Any, spec), spectral_norm=False)
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):  # its first weights shall cost nobody random numbers
        plain_names = build_layer(plain_spec).state_dict().keys()
    folded = copy.deepcopy(layer)
    for module in list(folded.modules()):
        if parametrize.is_parametrized(module):
            _fold_weights(module)
    return (plain_spec, folded) if folded.state_dict().keys() == plain_names else (spec, layer)


def _fold_weights(module: nn.Module) -> None:
    """Replace a module's parametrized weights by what they amount to."""
    parametrizations: Any = module.parametrizations
    weights = {
        name: nn.Parameter(getattr(module, name), any(part.requires_grad for part in parts.parameters(recurse=False)))
        for name, parts in parametrizations.items()
    }
    # `parametrize.remove_parametrizations` won't do: it takes the weight out of the class, which a copy shares with the
    # network that it was made of.
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    for name, weight in weights.items():
        module.register_parameter(name, weight)
