"""A layer as data: its type, and the keyword arguments of the layer that is built from it.

A spec, its JSON and the Python call look alike::

    {"type": "full_attention", "in_channels": 48, "out_channels": 3, "kernel_size": 4, "stride": 2, "padding": 1, ...}
"""

import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar

from fagan_hf.utils.suggest import suggest

IMAGE_CHANNELS = 3

# Name of an activation -> does it take a number in parentheses?
ACTIVATIONS = {
    "identity": False,
    "relu": False,
    "leaky_relu": True,
    "tanh": False,
    "sigmoid": False,
    "silu": False,
}

# Similarities of query and key that attention supports, see fagan_hf.layers.similarity.
SIMILARITIES = ("dot_product", "cosine", "negative_distance")

# How a block changes the size of the feature map.
RESAMPLINGS = ("none", "up", "down")

NORMS = ("none", "batch", "rms")
_VECTORS_OF_NORM = {"none": 0, "batch": 4, "rms": 1}  # of weights, each as long as there are channels

# Minimum of integer fields, by name; other fields may have any value.
_LEAST = {
    **dict.fromkeys(("image_size", "latent_dim", "in_channels", "out_channels"), 1),
    **dict.fromkeys(("kernel_size", "stride", "squeeze_factor", "heads", "key_pooling"), 1),
    **dict.fromkeys(("padding", "spectral_norm_dim", "num_labels"), 0),
}
_MOST = dict.fromkeys(_LEAST, 65_536)  # of the same fields: far beyond any network


def parse_activation(text: str) -> tuple[str, float | None]:
    """Split the name of an activation from its number: ``"leaky_relu(0.2)"`` gives ``("leaky_relu", 0.2)``.

    Args:
        text: A name from `ACTIVATIONS`; leaky ReLU carries its negative slope in parentheses.

    Raises:
        ValueError: The name is unknown, or its number is missing, not allowed or not finite.
    """
    match = re.fullmatch(r"(\w+)(?:\((-?\d+(?:\.\d*)?(?:e-?\d+)?)\))?", text) if isinstance(text, str) else None
    if match is None or match[1] not in ACTIVATIONS:
        name = match[1] if match else str(text)
        raise ValueError(f"activation is {text!r}; {suggest(name, map(_activation_form, ACTIVATIONS))}")
    name, number = match[1], match[2]
    if (number is not None) != ACTIVATIONS[name]:
        raise ValueError(f"activation is {text!r}; it must be written {_activation_form(name)!r}")
    return name, None if number is None else float(number)


def _activation_form(name: str) -> str:
    return f"{name}(0.2)" if ACTIVATIONS[name] else name


@dataclass(frozen=True, kw_only=True)
class Record:
    """Base of layer specs and network configs: strict types, strict keys, conversion to and from a dictionary."""

    def __post_init__(self):
        for field in fields(self):
            self._check_type(field.name, field.type)

    def _check_type(self, name: str, kind: Any) -> None:
        value = getattr(self, name)
        least, most = _LEAST.get(name, -math.inf), _MOST.get(name, math.inf)
        if kind is int and (type(value) is not int or not least <= value <= most):
            raise self._error(name, "a whole number" + (f" from {least} to {most:,}" if name in _LEAST else ""))
        if kind is float and (type(value) not in (int, float) or not math.isfinite(value)):
            raise self._error(name, "a finite number")
        if kind is bool and type(value) is not bool:
            raise self._error(name, "true or false")
        if kind is str and type(value) is not str:
            raise self._error(name, "text")

    def _error(self, name: str, allowed: str) -> ValueError:
        return ValueError(f"{name} is {getattr(self, name)!r}; it must be {allowed}")

    @classmethod
    def _check_keys(cls, data: Any) -> None:
        if not isinstance(data, Mapping):
            raise ValueError(f"it is {type(data).__name__} {data!r}; it must be a mapping of names to values")
        known = {field.name: field for field in fields(cls)}
        for key in data:
            if key not in known:
                raise ValueError(f"unknown key {key!r}; {suggest(str(key), known)}")
        required = [name for name, field in known.items() if field.default is MISSING]
        if missing := [name for name in required if name not in data]:
            raise ValueError(f"missing {', '.join(map(repr, missing))}; it needs {', '.join(required)}")


@dataclass(frozen=True, kw_only=True)
class LayerSpec(Record):
    """One layer as data. Subclasses are frozen dataclasses whose fields are their layer's keyword arguments.

    Attributes:
        type: The name in JSON, unique among the registered specs.
    """

    type: ClassVar[str]

    @property
    def labels(self) -> int:
        """Width of the label vectors that the layer's forward takes in addition to the feature map; 0: none."""
        return getattr(self, "num_labels", 0)

    @property
    def channels(self) -> tuple[int, int] | None:
        """Input and output channels; ``None`` if the layer accepts any number and keeps it."""
        return None

    @property
    def weights(self) -> int:
        """Number of values that a file of its weights holds at least; 0 for custom layers that don't say."""
        return 0

    def output_size(self, size: int) -> int:
        """Return the height and width [pixels] of the output for an input of ``size``.

        Raises:
            ValueError: The output would be empty.
        """
        return size

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of the layer."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as in JSON, `type` first."""
        return {"type": self.type, **self.arguments()}


@dataclass(frozen=True, kw_only=True)
class ConvSpec(LayerSpec):
    """A convolution with optional batch norm and activation; see `fagan_hf.layers.Conv`."""

    type: ClassVar[str] = "conv"
    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int = 1
    padding: int = 0
    bias: bool = True
    spectral_norm: bool = True
    # The weight's dimension that is used as the rows of the matrix for spectral norm. 0 as in the original, for every
    # layer type; torch would use 1 (the output channels) for a transposed convolution.
    spectral_norm_dim: int = 0
    batch_norm: bool = False
    # Above 0 the batch norm is conditional: its scale and shift depend on the labels.
    num_labels: int = 0
    activation: str = "identity"
    upsample: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.spectral_norm_dim > 1:
            raise self._error("spectral_norm_dim", "0 (the original's) or 1")
        is_plain = self.kernel_size % 2 and self.stride == 1 and self.padding == self.kernel_size // 2
        if self.upsample and (self.is_transposed or not is_plain):
            raise self._error(
                "upsample",
                "false unless kernel_size is odd, stride is 1, padding is half the kernel, and it is not transposed",
            )
        if self.num_labels and not self.batch_norm:
            raise self._error("num_labels", "0 if batch_norm is false, because only the batch norm takes labels")
        parse_activation(self.activation)

    @property
    def channels(self) -> tuple[int, int]:
        """Input and output channels."""
        return self.in_channels, self.out_channels

    @property
    def weights(self) -> int:
        """Number of values that a file of its weights holds at least."""
        vectors = 4 * self.batch_norm + self.bias + 2 * self.num_labels
        return self.in_channels * self.out_channels * self.kernel_size**2 + self.out_channels * vectors

    @property
    def is_transposed(self) -> bool:
        """Whether it upsamples by a transposed convolution."""
        return False

    def output_size(self, size: int) -> int:
        """Return the height and width [pixels] of the output for an input of ``size``."""
        kernel_size, stride, padding = self.kernel_size, self.stride, self.padding
        size = 2 * size if self.upsample else size
        if self.is_transposed:
            result = (size - 1) * stride - 2 * padding + kernel_size
        else:
            result = (size + 2 * padding - kernel_size) // stride + 1
        if result < 1:
            raise ValueError(
                f"kernel_size is {kernel_size}, stride {stride}, padding {padding}: the output for a {size}x{size} "
                "input is empty"
            )
        return result


@dataclass(frozen=True, kw_only=True)
class ConvTransposeSpec(ConvSpec):
    """A transposed convolution, otherwise like `ConvSpec`."""

    type: ClassVar[str] = "conv_transpose"

    @property
    def is_transposed(self) -> bool:
        """Whether it upsamples by a transposed convolution."""
        return True


@dataclass(frozen=True, kw_only=True)
class FullAttentionSpec(ConvSpec):
    """Convolution and attention at once; see `fagan_hf.layers.FullAttention`."""

    type: ClassVar[str] = "full_attention"
    transposed: bool = False
    squeeze_factor: int = 8
    heads: int = 1
    similarity: str = "dot_product"
    key_pooling: int = 1
    batch_norm: bool = True
    activation: str = "leaky_relu(0.2)"
    initial_alpha: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        _check_heads(self, self.in_channels, self.out_channels)
        _check_similarity(self)
        _check_doubled_pooling(self, self.upsample)

    @property
    def weights(self) -> int:
        """Number of values that a file of its weights holds at least."""
        return super().weights + _attention_weights(self, self.out_channels, self.kernel_size)

    def output_size(self, size: int) -> int:
        """Return the height and width [pixels] of the output for an input of ``size``."""
        check_key_pooling(self.key_pooling, size, self.upsample)
        return super().output_size(size)

    @property
    def is_transposed(self) -> bool:
        """Whether it upsamples by transposed convolutions."""
        return self.transposed


@dataclass(frozen=True, kw_only=True)
class ConvBlockSpec(LayerSpec):
    """A convolution in a residual block; see `fagan_hf.layers.ConvBlock`."""

    type: ClassVar[str] = "conv_block"
    in_channels: int
    out_channels: int
    resample: str = "none"
    spectral_norm: bool = True
    norm: str = "none"
    # Above 0 the norm is conditional: its scale and shift depend on the labels.
    num_labels: int = 0
    activation: str = "leaky_relu(0.2)"

    def __post_init__(self):
        super().__post_init__()
        if self.resample not in RESAMPLINGS:
            raise self._error("resample", f"one of {', '.join(RESAMPLINGS)}")
        if self.norm not in NORMS:
            raise self._error("norm", f"one of {', '.join(NORMS)}")
        if self.num_labels and self.norm == "none":
            raise self._error("num_labels", "0 if norm is 'none', because only the norm takes labels")
        parse_activation(self.activation)

    @property
    def channels(self) -> tuple[int, int]:
        """Input and output channels."""
        return self.in_channels, self.out_channels

    @property
    def kernel_size(self) -> int:
        """Height and width of the branch's kernels [pixels]."""
        return 4 if self.resample == "down" else 3

    @property
    def weights(self) -> int:
        """Number of values that a file of its weights holds at least."""
        shortcut = self.in_channels * self.out_channels if self.in_channels != self.out_channels else 0
        kernels = self.in_channels * self.out_channels * self.kernel_size**2
        vectors = _VECTORS_OF_NORM[self.norm] + 2 * self.num_labels
        return kernels + shortcut + self.in_channels * vectors

    def output_size(self, size: int) -> int:
        """Return the height and width [pixels] of the output for an input of ``size``."""
        if self.resample == "down" and size % 2:
            raise ValueError(f"resample is 'down', but {size}x{size} can't be halved")
        return {"up": 2 * size, "down": size // 2, "none": size}[self.resample]


@dataclass(frozen=True, kw_only=True)
class FullAttentionBlockSpec(ConvBlockSpec):
    """Full attention in a residual block; see `fagan_hf.layers.FullAttentionBlock`."""

    type: ClassVar[str] = "full_attention_block"
    squeeze_factor: int = 8
    heads: int = 1
    similarity: str = "cosine"
    key_pooling: int = 1

    def __post_init__(self):
        super().__post_init__()
        _check_heads(self, self.in_channels, self.out_channels)
        _check_similarity(self)
        _check_doubled_pooling(self, self.resample == "up")

    @property
    def weights(self) -> int:
        """Number of values that a file of its weights holds at least."""
        return super().weights + _attention_weights(self, self.out_channels, self.kernel_size)

    def output_size(self, size: int) -> int:
        """Return the height and width [pixels] of the output for an input of ``size``."""
        check_key_pooling(self.key_pooling, size, self.resample == "up")
        return super().output_size(size)


@dataclass(frozen=True, kw_only=True)
class SelfAttentionSpec(LayerSpec):
    """SAGAN's attention over a feature map; see `fagan_hf.layers.SelfAttention`."""

    type: ClassVar[str] = "self_attention"
    in_channels: int
    squeeze_factor: int = 8
    heads: int = 1
    bias: bool = True
    activation: str = "identity"

    def __post_init__(self):
        super().__post_init__()
        _check_heads(self, self.in_channels, self.in_channels)
        parse_activation(self.activation)

    @property
    def channels(self) -> tuple[int, int]:
        """Input and output channels, which are equal."""
        return self.in_channels, self.in_channels

    @property
    def weights(self) -> int:
        """Number of values that a file of its weights holds at least."""
        return _attention_weights(self, self.in_channels, kernel_size=1)


def _attention_weights(spec: Any, channels: int, kernel_size: int) -> int:
    """Return the number of entries of the kernels of query, key and value."""
    return spec.in_channels * (2 * (spec.in_channels // spec.squeeze_factor) + channels) * kernel_size**2


def _check_similarity(spec: Any) -> None:
    if spec.similarity not in SIMILARITIES:
        raise spec._error("similarity", f"one of {', '.join(SIMILARITIES)}")


def _check_doubled_pooling(spec: Any, is_doubled: bool) -> None:
    if is_doubled and spec.key_pooling > 1 and spec.key_pooling % 2:
        raise spec._error("key_pooling", "1 or even, because the input is doubled first")


def check_key_pooling(key_pooling: int, size: int, is_doubled: bool) -> None:
    """Refuse a side of pooled squares that does not divide the input.

    Args:
        key_pooling: The side [pixels of the (doubled) input].
        size: Height or width of the input [pixels].
        is_doubled: Whether the input is doubled first.

    Raises:
        ValueError: It does not; says what does.
    """
    size = 2 * size if is_doubled else size
    if size % key_pooling:
        what = "its input" + (", which is doubled first" if is_doubled else "")
        raise ValueError(f"key_pooling is {key_pooling}; it must divide {size}, the height or width of {what}")


def _check_heads(spec: Any, in_channels: int, out_channels: int) -> None:
    squeezed = in_channels // spec.squeeze_factor
    if squeezed == 0:
        raise ValueError(f"squeeze_factor is {spec.squeeze_factor}; it must be at most in_channels, {in_channels}")
    if squeezed % spec.heads or out_channels % spec.heads:
        raise ValueError(
            f"heads is {spec.heads}; it must divide the query's {squeezed} channels (in_channels // squeeze_factor) "
            f"and the value's {out_channels}"
        )


@dataclass(frozen=True, kw_only=True)
class BatchNormSpec(LayerSpec):
    """Batch norm as a separate layer; see `fagan_hf.layers.BatchNorm`."""

    type: ClassVar[str] = "batch_norm"
    _norm: ClassVar[str] = "batch"
    in_channels: int
    num_labels: int = 0

    @property
    def channels(self) -> tuple[int, int]:
        """Input and output channels, which are equal."""
        return self.in_channels, self.in_channels

    @property
    def weights(self) -> int:
        """Number of values that a file of its weights holds at least."""
        return self.in_channels * (_VECTORS_OF_NORM[self._norm] + 2 * self.num_labels)


@dataclass(frozen=True, kw_only=True)
class RMSNormSpec(BatchNormSpec):
    """RMS norm as a separate layer; see `fagan_hf.layers.RMSNorm`."""

    type: ClassVar[str] = "rms_norm"
    _norm: ClassVar[str] = "rms"


@dataclass(frozen=True, kw_only=True)
class ActivationSpec(LayerSpec):
    """An activation as a separate layer; see `fagan_hf.layers.build_activation`."""

    type: ClassVar[str] = "activation"
    activation: str

    def __post_init__(self):
        super().__post_init__()
        parse_activation(self.activation)


@dataclass(frozen=True, kw_only=True)
class DropoutSpec(LayerSpec):
    """Dropout of whole channels; see `fagan_hf.layers.Dropout`."""

    type: ClassVar[str] = "dropout"
    probability: float

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.probability <= 1:
            raise self._error("probability", "from 0 to 1")


LAYER_SPECS: dict[str, type[LayerSpec]] = {
    spec.type: spec
    for spec in (
        ConvSpec,
        ConvTransposeSpec,
        FullAttentionSpec,
        ConvBlockSpec,
        FullAttentionBlockSpec,
        SelfAttentionSpec,
        BatchNormSpec,
        RMSNormSpec,
        ActivationSpec,
        DropoutSpec,
    )
}
BUILT_IN = frozenset(LAYER_SPECS.values())


def check_arguments(spec_class: type[LayerSpec], arguments: Mapping[str, Any]) -> None:
    """Check the arguments of a layer's constructor as those of its spec, with the same errors.

    Args:
        spec_class: The layer's spec.
        arguments: Values by name, such as ``locals()`` of the constructor; what is not a field is ignored.

    Raises:
        ValueError: A value is not allowed; says what is.
    """
    spec_class(**{field.name: arguments[field.name] for field in fields(spec_class) if field.name in arguments})


def parse_layer(data: LayerSpec | Mapping[str, Any]) -> LayerSpec:
    """Parse one layer from its JSON dictionary; a spec is returned unchanged.

    Raises:
        ValueError: `type` is missing or unknown, a key is unknown or missing, or a value is not allowed.
    """
    if isinstance(data, LayerSpec):
        return data
    if not isinstance(data, Mapping) or "type" not in data:
        raise ValueError(f"it is {data!r}; it must be a mapping with a 'type'. {suggest('', LAYER_SPECS)}")
    if data["type"] not in LAYER_SPECS:
        raise ValueError(
            f"type is {data['type']!r}, which is not a built-in layer. A custom layer must be registered first: "
            "import the module that calls fagan_hf.layers.register_layer (in the shell: --import). Built-in layers: "
            f"{suggest(str(data['type']), LAYER_SPECS)}"
        )
    spec_class = LAYER_SPECS[data["type"]]
    # JSON has no tuples, and a spec with a list would differ from the spec that was saved.
    arguments = {
        key: tuple(value) if isinstance(value, list) else value for key, value in data.items() if key != "type"
    }
    spec_class._check_keys(arguments)
    return spec_class(**arguments)
