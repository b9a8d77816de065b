"""A network as data: the contents of its ``config.json``, checked on creation.

Nothing here imports torch, so reading, writing and checking configs is fast.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from fagan_hf.architectures.specs import BUILT_IN, LayerSpec, Record, parse_layer
from fagan_hf.utils.image_forms import IMAGE_FORMS

_DEFAULT_CHANNELS = 3  # what an error about other numbers of channels suggests
_MAX_LAYERS = 1_000


@dataclass(frozen=True, kw_only=True)
class _NetworkConfig(Record):
    """Base of both networks' configs: layers that fit each other, and named labels."""

    image_size: int
    layers: tuple[LayerSpec, ...]
    label_names: tuple[str, ...] = ()
    conditioning: str = "concatenation"

    CONDITIONINGS: ClassVar[tuple[str, ...]]

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "layers", tuple(self._parse_layers(self.layers)))
        object.__setattr__(self, "label_names", self._parse_label_names(self.label_names))
        if self.conditioning not in self.CONDITIONINGS:
            raise self._error("conditioning", " or ".join(map(repr, self.CONDITIONINGS)))
        self._check_labels()
        self._check_chain()

    @property
    def num_labels(self) -> int:
        """Width of the label vectors; 0 for an unconditional network."""
        return len(self.label_names)

    @staticmethod
    def _parse_layers(layers: Any) -> list[LayerSpec]:
        if not isinstance(layers, (list, tuple)) or not layers:
            raise ValueError(f"layers is {layers!r}; it must be a list of at least one layer")
        if len(layers) > _MAX_LAYERS:
            raise ValueError(f"layers has {len(layers):,} entries; at most {_MAX_LAYERS:,} are allowed")
        result = []
        for index, layer in enumerate(layers):
            try:
                result.append(parse_layer(layer))
            except (TypeError, ValueError) as error:
                name = layer.get("type", "?") if isinstance(layer, Mapping) else type(layer).__name__
                raise ValueError(f"layers[{index}] ({name}): {error}") from error
        return result

    @staticmethod
    def _parse_label_names(names: Any) -> tuple[str, ...]:
        is_list = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
        if not is_list or len(set(names)) != len(names):
            raise ValueError(f"label_names is {names!r}; it must be a list of different names")
        return tuple(names)

    def _input(self) -> tuple[int, int]:
        """Return channels and size of the first layer's input."""
        raise NotImplementedError

    def _output(self) -> tuple[int, int]:
        """Return the required channels and size of the last layer's output."""
        raise NotImplementedError

    def _labels_enter_at(self) -> int:
        """Return the index of the layer to whose input labels are concatenated, for that kind of conditioning."""
        raise NotImplementedError

    def _check_labels(self) -> None:
        for index, layer in enumerate(self.layers):
            if layer.labels not in (0, self.num_labels):
                raise ValueError(
                    f"layers[{index}] ({layer.type}): num_labels is {layer.labels}; it must be 0 or the number of "
                    f"label_names, {self.num_labels}"
                )

    def _check_chain(self) -> None:
        channels, size = self._input()
        entrance = self._labels_enter_at() if self.conditioning == "concatenation" and self.num_labels else None
        for index, layer in enumerate(self.layers):
            name = f"layers[{index}] ({layer.type})"
            if index == entrance:
                channels += self.num_labels
            if layer.channels is not None and layer.channels[0] != channels:
                given = f"layers[{index - 1}] outputs" if index else "the network's input has"
                labels = f" with {self.num_labels} labels" if index == entrance else ""
                raise ValueError(f"{name}: in_channels is {layer.channels[0]}, but {given} {channels} channels{labels}")
            try:
                size = layer.output_size(size)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            channels = layer.channels[1] if layer.channels is not None else channels
        if (channels, size) != self._output():
            wanted_channels, wanted_size = self._output()
            raise ValueError(
                f"the last layer outputs {channels} channels at {size}x{size}, but the network must end with "
                f"{wanted_channels} at {wanted_size}x{wanted_size} (image_size is {self.image_size})"
            )

    @property
    def weights(self) -> int:
        """Number of values that a file of the network's weights holds at least; custom layers are not counted."""
        return sum(layer.weights for layer in self.layers if type(layer) in BUILT_IN)

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of ``config.json``."""
        data: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return data | {"layers": [layer.to_dict() for layer in self.layers], "label_names": list(self.label_names)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Parse the output of `to_dict`, strictly.

        Raises:
            ValueError: A key is unknown or missing, a value is not allowed, channels don't match, or the layers don't
                reach `image_size`; says which layer and field, the given value, and what is allowed.
        """
        cls._check_keys(data)
        return cls(**data)


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig(_NetworkConfig):
    """A discriminator: layers from an image of 1, 3 or 4 channels at `image_size` [pixels] to one logit.

    Attributes:
        image_size: Height and width of the images [pixels].
        layers: Layer specs (or their dictionaries), from image to logit. The last one ends at 1x1 with one channel.
        label_names: Names of the labels: ``"beard"`` for a binary attribute, ``"hair=red"`` for one class of several.
        conditioning: How labels enter. ``"concatenation"``: concatenated to the input of layer `labels_at`.
            ``"projection"``: their embedding's product with the last layer's input, summed over positions, is added to
            the logit (Miyato and Koyama, arXiv:1802.05637).
        labels_at: Index of the layer to whose input labels are concatenated; -1 is the last one, as in the original's
            ``ConditionalDiscriminator``. If that layer is a plain convolution, the logit is a sum of a term of the
            image and a term of the labels, so no label can be right for one image and wrong for another: choose an
            earlier layer.

    Raises:
        ValueError: See `from_dict`.
    """

    CONDITIONINGS: ClassVar[tuple[str, ...]] = ("concatenation", "projection")

    labels_at: int = -1

    def _check_labels(self) -> None:
        super()._check_labels()
        if not -len(self.layers) <= self.labels_at < 0:
            raise self._error("labels_at", f"from {-len(self.layers)}, the first layer, to -1, the last")

    @property
    def first_with_channels(self) -> int:
        """Index of the first layer that determines the channels of its input."""
        return next((index for index, layer in enumerate(self.layers) if layer.channels is not None), 0)

    @property
    def image_channels(self) -> int:
        """Channels of the images: 1 for grayscale, 3 for RGB, 4 for RGBA."""
        first = self.first_with_channels
        channels = self.layers[first].channels
        given = channels[0] if channels is not None else 0
        enter = self.num_labels if self.conditioning == "concatenation" and first >= self._labels_enter_at() else 0
        return given - enter if given - enter in IMAGE_FORMS else _DEFAULT_CHANNELS

    def _input(self) -> tuple[int, int]:
        return self.image_channels, self.image_size

    def _output(self) -> tuple[int, int]:
        return 1, 1

    def _labels_enter_at(self) -> int:
        return len(self.layers) + self.labels_at

    @property
    def weights(self) -> int:
        """Number of values that a file of the network's weights holds at least, with the embedding of labels."""
        embedded = self.num_labels * self.features_channels if self.conditioning == "projection" else 0
        return super().weights + embedded

    @property
    def features_channels(self) -> int:
        """Channels of the last layer's input, without labels."""
        channels = self.image_channels
        for layer in self.layers[:-1]:
            channels = layer.channels[1] if layer.channels is not None else channels
        return channels


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig(_NetworkConfig):
    """A generator: layers from a latent vector, as a 1x1 feature map, to an image at `image_size` [pixels].

    The last layer's channels say what images hold: 1 grayscale, 3 RGB, 4 RGBA with premultiplied alpha.

    Attributes:
        image_size: Height and width of the images [pixels].
        layers: Layer specs (or their dictionaries), from latent to image.
        label_names: Names of the labels: ``"beard"`` for a binary attribute, ``"hair=red"`` for one class of several.
        conditioning: How labels enter. ``"concatenation"``: concatenated to the latent, as in the original.
            ``"batch_norm"``: through conditional batch norms, in layers with `num_labels` above 0.
        latent_dim: Length of the latent vector.

    Raises:
        ValueError: See `from_dict`.
    """

    CONDITIONINGS: ClassVar[tuple[str, ...]] = ("concatenation", "batch_norm")

    latent_dim: int

    def _check_labels(self) -> None:
        super()._check_labels()
        if self.conditioning == "batch_norm" and self.num_labels and not any(layer.labels for layer in self.layers):
            raise self._error(
                "conditioning", f"'concatenation', or some layer with batch_norm must have num_labels {self.num_labels}"
            )

    def _input(self) -> tuple[int, int]:
        return self.latent_dim, 1

    @property
    def last_with_channels(self) -> int:
        """Index of the last layer that determines the channels of its output."""
        indices = [index for index, layer in enumerate(self.layers) if layer.channels is not None]
        return indices[-1] if indices else 0

    @property
    def image_channels(self) -> int:
        """Channels of the images: 1 for grayscale, 3 for RGB, 4 for RGBA with premultiplied alpha."""
        channels = self.layers[self.last_with_channels].channels
        return channels[1] if channels is not None and channels[1] in IMAGE_FORMS else _DEFAULT_CHANNELS

    def _output(self) -> tuple[int, int]:
        return self.image_channels, self.image_size

    def _labels_enter_at(self) -> int:
        return 0


Architecture = tuple[GeneratorConfig, DiscriminatorConfig]
"""Both networks of a GAN."""
