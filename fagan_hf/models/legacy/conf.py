"""The original's ``.conf`` files.

A ``.conf`` is YAML with a list ``architecture``. The original builds one module from each entry and puts them into an
`nn.Sequential` called ``model``, so an entry's index is part of the names of its weights: ``model.3.0.weight``.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fagan_hf.architectures.specs import (
    BatchNormSpec,
    ConvSpec,
    ConvTransposeSpec,
    DropoutSpec,
    FullAttentionSpec,
    LayerSpec,
    SelfAttentionSpec,
)
from fagan_hf.utils.suggest import suggest

IGNORE_ATTENTION_MAPS = "ignore_attn_maps"


@dataclass(frozen=True)
class LegacyLayer:
    """One layer of a ``.conf``.

    Attributes:
        spec: The equivalent spec.
        prefix: Prefix of the names of its weights in the original's files: ``"model.3"``.
    """

    spec: LayerSpec
    prefix: str


def quoted(path: str | Path | None) -> str:
    """Format a path for error messages."""
    return "missing" if path is None else repr(str(path))


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Prefix error messages with the name of a file."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_conf(path: str | Path) -> tuple[LegacyLayer, ...]:
    """Read a ``.conf`` of the original.

    Names are case-insensitive, as in the original, and keys that it ignores are ignored. ``ignore_attn_maps`` occupies
    an index in the original's list and is dropped: our attention layers return no maps.

    Args:
        path: The file.

    Returns:
        The layers in their order.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not YAML with a list ``architecture``, or a layer in it is not one of the original's; says
            which layer, which key, and what is allowed.
    """
    path = Path(path)
    with naming(path):
        entries = _read_architecture(path)
        names = [_layer_name(index, entry) for index, entry in enumerate(entries)]
        layers = []
        for index, (name, entry) in enumerate(zip(names, entries, strict=True)):
            with naming(f"architecture[{index}] ({name})"):
                _check_neighbors(names, index)
                if name != IGNORE_ATTENTION_MAPS:
                    layers.append(LegacyLayer(_READERS[name](_Entry(entry)), prefix=f"model.{index}"))
    return tuple(layers)


def _read_architecture(path: Path) -> list[Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise missing_file(path) from error
    except (yaml.YAMLError, ValueError) as error:  # a UnicodeDecodeError is one too
        raise ValueError(f"it is not valid YAML: {error}") from error
    architecture = data.get("architecture") if isinstance(data, dict) else None
    if not isinstance(architecture, list) or not architecture:
        raise ValueError("it has no layers; it must be YAML with a list of layers under 'architecture:'")
    return architecture


def missing_file(path: Path) -> FileNotFoundError:
    """Build the error for a missing file; suggests the closest name in its folder."""
    beside = (each.name for each in path.parent.glob(f"*{path.suffix}"))
    return FileNotFoundError(f"{str(path)!r} does not exist; {suggest(path.name, beside)}")


def _layer_name(index: int, entry: Any) -> str:
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str):
        raise ValueError(f"architecture[{index}] is {entry!r}; it must be a mapping with a 'name'")
    if name.lower() not in _READERS and name.lower() != IGNORE_ATTENTION_MAPS:
        allowed = (*_READERS, IGNORE_ATTENTION_MAPS)
        raise ValueError(f"architecture[{index}]: name is {name!r}; {suggest(name.lower(), allowed)}")
    return name.lower()


def _check_neighbors(names: Sequence[str], index: int) -> None:
    before = names[index - 1] if index else None
    behind = names[index + 1] if index + 1 < len(names) else None
    if names[index] == IGNORE_ATTENTION_MAPS and before not in _ATTENTION:
        raise ValueError(f"it follows {before or 'nothing'}; it must directly follow an attention layer")
    if names[index] in _ATTENTION and behind != IGNORE_ATTENTION_MAPS:
        raise ValueError(
            f"{behind or 'nothing'} follows it; it must be {IGNORE_ATTENTION_MAPS}, because the original's attention "
            "layers also return their maps"
        )


class _Entry:
    """One layer of a ``.conf``, read key by key. Values that are only passed on are checked by the spec."""

    def __init__(self, values: Mapping[str, Any]):
        self._values = values

    def __getitem__(self, key: str) -> Any:
        if key not in self._values:
            raise ValueError(f"{key!r} is missing; the layer has {', '.join(map(str, self._values))}")
        return self._values[key]

    def get(self, key: str, default: Any) -> Any:
        return self._values.get(key, default)

    def pair(self, key: str) -> tuple[int, int]:
        """Read ``(4, 2)``, which YAML parses as a string; a YAML list works as well."""
        value = self[key]
        texts = re.fullmatch(r"[(\[]\s*(-?\d+)\s*,\s*(-?\d+)\s*,?\s*[)\]]", value) if isinstance(value, str) else None
        numbers = [int(text) for text in texts.groups()] if texts else value
        if not isinstance(numbers, list) or [type(number) for number in numbers] != [int, int]:
            raise ValueError(f"{key} is {value!r}; it must be two whole numbers like (4, 4)")
        return numbers[0], numbers[1]

    def side(self, key: str) -> int:
        """Read a pair of equal numbers as one."""
        height, width = self.pair(key)
        if height != width:
            raise ValueError(f"{key} is {self[key]!r}; both numbers must be equal because layers here are square")
        return height

    def convolution(self) -> dict[str, Any]:
        """Read the fields that all convolutions have."""
        in_channels, out_channels = self.pair("channels")
        return {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "kernel_size": self.side("kernel_dims"),
            "stride": self.side("stride"),
            "padding": self.side("padding"),
            "bias": self["bias"],
        }

    def optional_activation(self) -> str:
        """Read the activation of an attention layer, which is optional."""
        return _activation(self["activation"]) if "activation" in self._values else "identity"


def _activation(text: Any) -> str:
    match = re.fullmatch(r"(\w+)(?:\((.*)\))?", text.lower()) if isinstance(text, str) else None
    if match is not None and match[1] in ("tanh", "sigmoid", "relu") and match[2] is None:
        return match[1]
    if match is None or match[1] != "lrelu":
        raise ValueError(f"activation is {text!r}; {suggest(str(text).lower(), _ACTIVATIONS)}")
    try:
        slope = float(match[2] or "nan")
    except ValueError:
        slope = math.nan
    if not math.isfinite(slope):
        raise ValueError(f"activation is {text!r}; it must be written like 'lrelu(0.2)', with its negative slope")
    # The original expresses "no activation" as a slope of 1 on both sides.
    return "identity" if slope == 1 else f"leaky_relu({slope})"


_ACTIVATIONS = ("tanh", "sigmoid", "relu", "lrelu(0.2)")


def _read_conv(entry: _Entry, spec_class: type[ConvSpec] = ConvSpec) -> ConvSpec:
    return spec_class(
        **entry.convolution(),
        spectral_norm=entry.get("spectral_norm", False),
        batch_norm=entry["batch_norm"],
        activation=_activation(entry["activation"]),
    )


def _read_conv_transpose(entry: _Entry) -> ConvSpec:
    return _read_conv(entry, ConvTransposeSpec)


def _read_full_attention(entry: _Entry) -> FullAttentionSpec:
    return FullAttentionSpec(
        **entry.convolution(),
        transposed=entry["transpose_conv"],
        squeeze_factor=entry["squeeze_factor"],
        spectral_norm=entry["use_spectral_norm"],
        batch_norm=entry["use_batch_norm"],
        activation=entry.optional_activation(),
    )


def _read_self_attention(entry: _Entry) -> SelfAttentionSpec:
    return SelfAttentionSpec(
        in_channels=entry["channels"],
        squeeze_factor=entry["squeeze_factor"],
        bias=entry["bias"],
        activation=entry.optional_activation(),
    )


def _read_batch_norm(entry: _Entry) -> BatchNormSpec:
    return BatchNormSpec(in_channels=entry["num_channels"])


def _read_dropout(entry: _Entry) -> DropoutSpec:
    return DropoutSpec(probability=entry["drop_prob"])


_ATTENTION = ("full_attention", "self_attention")

_READERS = {
    "conv": _read_conv,
    "conv_transpose": _read_conv_transpose,
    "full_attention": _read_full_attention,
    "self_attention": _read_self_attention,
    "batch_norm": _read_batch_norm,
    "dropout": _read_dropout,
}
