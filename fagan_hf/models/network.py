"""What both networks are: a config turned into layers."""

from typing import Self

from torch import Tensor, nn

from fagan_hf.configs import DiscriminatorConfig, GeneratorConfig
from fagan_hf.hub import HubModel
from fagan_hf.layers import build_layer
from fagan_hf.presets import preset


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
        """Make the untrained network of a preset; `fagan_hf.presets.PRESETS` has the names.

        Raises:
            ValueError: There is no such preset.
        """
        [config] = [config for config in preset(name) if isinstance(config, cls.config_class)]
        return cls(config)
