"""Bring networks of attn-gan-pytorch 1.2.3, the original, over: its ``.conf`` files and its ``GAN_GEN_10.pth``.

A ``.conf`` is YAML with a list ``architecture``. The original makes one module of each entry and puts them into one
`nn.Sequential` called ``model``, so an entry's place in the list is in the names of its weights: ``model.3.0.weight``.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
import yaml
from torch import Tensor

from fagan_hf.architectures.configs import (
    BatchNormSpec,
    ConvSpec,
    ConvTransposeSpec,
    DiscriminatorConfig,
    DropoutSpec,
    FullAttentionSpec,
    GeneratorConfig,
    LayerSpec,
    SelfAttentionSpec,
)
from fagan_hf.models.discriminator import Discriminator
from fagan_hf.models.generator import Generator
from fagan_hf.utils.suggest import suggest

IGNORE_ATTENTION_MAPS = "ignore_attn_maps"
LARGEST_IMAGE_SIZE = 1024  # up to which a discriminator's image size is looked for [pixels]

_Network = TypeVar("_Network", Generator, Discriminator)


@dataclass(frozen=True)
class LegacyLayer:
    """One layer of a ``.conf``.

    Attributes:
        spec: What it is here.
        prefix: What the names of its weights begin with in the original's files: ``"model.3"``.
    """

    spec: LayerSpec
    prefix: str


def convert(
    generator_conf: str | Path,
    generator_weights: str | Path,
    discriminator_conf: str | Path | None = None,
    discriminator_weights: str | Path | None = None,
    label_names: Sequence[str] = (),
) -> tuple[Generator, Discriminator | None]:
    """Make networks that compute what the original's do in eval mode.

    Args:
        generator_conf: The generator's ``.conf``.
        generator_weights: Its weights, as the original's training saves them (``GAN_GEN_10.pth``).
        discriminator_conf: The discriminator's ``.conf``; none: no discriminator.
        discriminator_weights: Its weights (``GAN_DIS_10.pth``).
        label_names: Of a conditional pair, a name for each number of the label vectors, in their order.

    Returns:
        Generator and discriminator in eval mode, of the weights' own dtype.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A ``.conf`` can't be read, its layers make no such network, or weights are refused or don't fit
            their ``.conf``; says which file.
    """
    if (discriminator_conf is None) != (discriminator_weights is None):
        raise ValueError(
            f"discriminator_conf is {_quoted(discriminator_conf)} and discriminator_weights "
            f"{_quoted(discriminator_weights)}; give both or neither"
        )
    layers = read_conf(generator_conf)
    with _naming(generator_conf):
        generator = Generator(generator_config(layers, label_names))
    _load(generator, layers, generator_weights)
    if discriminator_conf is None or discriminator_weights is None:
        return generator, None
    layers = read_conf(discriminator_conf)
    image_size = generator.config.image_size
    with _naming(discriminator_conf):
        discriminator = Discriminator(discriminator_config(layers, label_names, image_size))
        if discriminator.config.image_size != image_size:
            judged = discriminator.config.image_size
            raise ValueError(
                f"it judges images of {judged}x{judged}, but {generator_conf} makes them {image_size}x{image_size}; "
                "give two that were trained together"
            )
    if label_names:
        layers = (*layers[:-1], replace(layers[-1], prefix="last_module"))
    _load(discriminator, layers, discriminator_weights)
    return generator, discriminator


def _quoted(path: str | Path | None) -> str:
    return "missing" if path is None else repr(str(path))


@contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Put the name of a file before an error's message."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _load(network: _Network, layers: Sequence[LegacyLayer], path: str | Path) -> None:
    state = read_state_dict(path)
    with _naming(path):
        converted = convert_state_dict(state, layers, network.state_dict())
    # The widest there is, so that nothing is rounded.
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in state.values() if tensor.is_floating_point()))
    network.to(dtype).load_state_dict(converted)
    network.eval()


def read_conf(path: str | Path) -> tuple[LegacyLayer, ...]:
    """Read a ``.conf`` of the original.

    Names are read in any case, as the original reads them, and keys that it never looks at are passed over.
    ``ignore_attn_maps`` takes a place in the original's list and becomes nothing: our attention layers give no maps.

    Args:
        path: The file.

    Returns:
        The layers in their order.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no YAML with a list ``architecture``, or a layer in there is not one of the original's; says
            which layer, which key, and what is allowed.
    """
    path = Path(path)
    with _naming(path):
        entries = _read_architecture(path)
        names = [_layer_name(index, entry) for index, entry in enumerate(entries)]
        layers = []
        for index, (name, entry) in enumerate(zip(names, entries, strict=True)):
            with _naming(f"architecture[{index}] ({name})"):
                _check_neighbours(names, index)
                if name != IGNORE_ATTENTION_MAPS:
                    layers.append(LegacyLayer(_READERS[name](_Entry(entry)), prefix=f"model.{index}"))
    return tuple(layers)


def _read_architecture(path: Path) -> list[Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _missing_file(path) from error
    except (yaml.YAMLError, ValueError) as error:  # a UnicodeDecodeError is one too
        raise ValueError(f"it is no YAML: {error}") from error
    architecture = data.get("architecture") if isinstance(data, dict) else None
    if not isinstance(architecture, list) or not architecture:
        raise ValueError("it has no layers; it must be YAML with a list of layers under 'architecture:'")
    return architecture


def _missing_file(path: Path) -> FileNotFoundError:
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


def _check_neighbours(names: Sequence[str], index: int) -> None:
    before = names[index - 1] if index else None
    behind = names[index + 1] if index + 1 < len(names) else None
    if names[index] == IGNORE_ATTENTION_MAPS and before not in _ATTENTION:
        raise ValueError(f"it stands behind {before or 'nothing'}; it must stand right behind an attention layer")
    if names[index] in _ATTENTION and behind != IGNORE_ATTENTION_MAPS:
        raise ValueError(
            f"{behind or 'nothing'} stands behind it; it must be {IGNORE_ATTENTION_MAPS}, for the original's attention "
            "layers give their maps as well"
        )


class _Entry:
    """One layer of a ``.conf``, read key by key. A spec checks the types of what is only handed on."""

    def __init__(self, values: Mapping[str, Any]):
        self._values = values

    def __getitem__(self, key: str) -> Any:
        if key not in self._values:
            raise ValueError(f"{key!r} is missing; there are {', '.join(map(str, self._values))}")
        return self._values[key]

    def get(self, key: str, default: Any) -> Any:
        return self._values.get(key, default)

    def pair(self, key: str) -> tuple[int, int]:
        """Read ``(4, 2)``, which is text to YAML; a YAML list will do as well."""
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
            raise ValueError(f"{key} is {self[key]!r}; both numbers must be equal, for layers here are square")
        return height

    def convolution(self) -> dict[str, Any]:
        """Read what all convolutions have."""
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
        """Read the activation of an attention layer, which may have none."""
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
        raise ValueError(f"activation is {text!r}; it must be written 'lrelu(0.2)', with its slope below 0")
    # A slope of 1 on both sides is how the original writes that there is no activation.
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


def generator_config(layers: Sequence[LegacyLayer], label_names: Sequence[str] = ()) -> GeneratorConfig:
    """Make the config of a generator.

    Args:
        layers: What `read_conf` gave.
        label_names: Of a conditional network, whose first layer takes the labels behind the latent.

    Raises:
        ValueError: The layers don't lead from a 1x1 feature map to an image.
    """
    size = 1
    for layer in layers:
        try:
            size = layer.spec.output_size(size)
        except ValueError as error:
            raise ValueError(f"{layer.prefix} ({layer.spec.type}): {error}; is it a discriminator's?") from error
    in_channels = next((layer.spec.channels[0] for layer in layers if layer.spec.channels is not None), 0)
    with _explaining_config("generator"):
        return GeneratorConfig(
            latent_dim=in_channels - len(label_names),
            image_size=size,
            layers=_specs(layers),
            label_names=tuple(label_names),
        )


def discriminator_config(
    layers: Sequence[LegacyLayer], label_names: Sequence[str] = (), image_size: int | None = None
) -> DiscriminatorConfig:
    """Make the config of a discriminator.

    Strides round down, so several image sizes may end at 1x1, and a ``.conf`` doesn't say which one is meant. It is
    ``image_size`` if that is among them, else the largest power of two, else the smallest size.

    Args:
        layers: What `read_conf` gave.
        label_names: Of a conditional network, whose last layer takes the labels behind the features.
        image_size: The generator's [pixels], if it is known.

    Raises:
        ValueError: The layers don't lead from any image size to 1x1, or not to one channel.
    """
    fitting = [size for size in range(1, LARGEST_IMAGE_SIZE + 1) if _ends_at_one(layers, size)]
    if not fitting:
        raise ValueError(
            f"no image size from 1 to {LARGEST_IMAGE_SIZE} ends at 1x1, as a discriminator's must; is it a generator's?"
        )
    powers = [size for size in fitting if size.bit_count() == 1]
    with _explaining_config("discriminator"):
        return DiscriminatorConfig(
            image_size=image_size if image_size in fitting else max(powers, default=fitting[0]),
            layers=_specs(layers),
            label_names=tuple(label_names),
        )


def _ends_at_one(layers: Iterable[LegacyLayer], size: int) -> bool:
    try:
        return reduce(lambda now, layer: layer.spec.output_size(now), layers, size) == 1
    except ValueError:  # nothing is left on the way
        return False


def _specs(layers: Iterable[LegacyLayer]) -> tuple[LayerSpec, ...]:
    return tuple(layer.spec for layer in layers)


@contextmanager
def _explaining_config(network: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(
            f"the layers make no {network}: {error}. Layers are counted without {IGNORE_ATTENTION_MAPS} here; a "
            "conditional network needs the names of its labels"
        ) from error


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read weights that the original saved, without running code: a pickle that names more than tensors is refused.

    Args:
        path: A file of ``torch.save(network.state_dict(), path)``, in today's format or the one before torch 1.6. The
            prefix that `nn.DataParallel` puts before all names is taken away.

    Returns:
        Tensors on the CPU by the original's names.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is refused, no checkpoint, or holds something else than weights.
    """
    path = Path(path)
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise _missing_file(path) from error
    with file:
        state = _load_without_code(path, file)
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds {type(state).__name__}; it must hold a mapping of names to tensors")
    if {"state", "param_groups"} <= state.keys():
        raise ValueError(f"{path} holds an optimiser's state; a network's is in a file like GAN_GEN_10.pth")
    other = [name for name, value in state.items() if not isinstance(name, str) or not isinstance(value, Tensor)]
    if other or not state:
        what = f"{other[0]!r}: {type(state[other[0]]).__name__}" if other else "nothing"
        raise ValueError(f"{path} holds {what}; it must hold a mapping of names to tensors")
    is_parallel = all(name.startswith("module.") for name in state)
    return {name.removeprefix("module.") if is_parallel else name: tensor for name, tensor in state.items()}


def _load_without_code(path: Path, file: BinaryIO) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        # torch's own message is left to the traceback: it goes on about how to run the code nevertheless.
        if named := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(
                f"{path} is refused, and nothing in it was run: it names {named[1]}, and a pickle that names more than "
                "tensors can run code when it is read. If it is your own whole network, save its state_dict() instead"
            ) from error
        raise ValueError(f"{path} is truncated, or no file of torch.save(network.state_dict(), ...)") from error


# Our names of a layer's parts -> the original's.
_CONV_PARTS = {"conv": "0", "batch_norm": "1"}
_SELF_ATTENTION_PARTS = {"query": "query_conv", "key": "key_conv", "value": "value_conv", "gamma": "gamma"}
_FULL_ATTENTION_PARTS = {
    "query": "query_conv",
    "key": "key_conv",
    "value": "value_conv",
    "residual": "residual_conv",
    "batch_norm": "batch_norm",
    "alpha": "gamma",
}
_PARTS = {
    "conv": _CONV_PARTS,
    "conv_transpose": _CONV_PARTS,
    "full_attention": _FULL_ATTENTION_PARTS,
    "self_attention": _SELF_ATTENTION_PARTS,
    "batch_norm": {"batch_norm": ""},
}
# The same for what is in a convolution with spectral norm, which the original wraps into a module of its own.
_NORMALISED = {
    "parametrizations.weight.original": "module.weight_bar",
    "parametrizations.weight.0.u": "module.weight_u",
    "parametrizations.weight.0.v": "module.weight_v",
    "bias": "module.bias",
}


def convert_state_dict(
    state: Mapping[str, Tensor], layers: Sequence[LegacyLayer], expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Give the original's weights our names.

    The singular vectors of spectral norm stay exactly as they are. The batch norm that the original makes in every full
    attention is left out where it is unused. Counters of batches, which torch has since 0.4.1, begin at 0 where they
    are missing.

    Args:
        state: What `read_state_dict` gave.
        layers: What `read_conf` gave.
        expected: The state dict of our network, for its names and shapes. What has no counterpart in the original, such
            as the frequencies of labels, is taken from here.

    Returns:
        Tensors by our names.

    Raises:
        ValueError: Weights are missing, unknown or of another shape; says which, by the names in the original's file.
    """
    remaining = dict(state)
    converted: dict[str, Tensor] = {}
    problems = []
    for name, wanted in expected.items():
        legacy_name = _legacy_name(name, layers)
        if legacy_name is None:
            converted[name] = wanted
            continue
        found = remaining.pop(legacy_name, None)
        if found is None and name.endswith("num_batches_tracked"):
            found = torch.zeros_like(wanted)
        shape = [1] if name.endswith((".alpha", ".gamma")) else list(wanted.shape)
        if found is None:
            problems.append(f"{legacy_name} is missing")
        elif found.is_floating_point() != wanted.is_floating_point():
            problems.append(f"{legacy_name} is {found.dtype}; it must be like {wanted.dtype}")
        elif list(found.shape) != shape:
            problems.append(f"{legacy_name} is {list(found.shape)}; it must be {shape}")
        else:
            converted[name] = found.detach().reshape(wanted.shape)
    unused = tuple(f"{layer.prefix}.batch_norm." for layer in layers if _has_unused_batch_norm(layer.spec))
    problems += [f"{name} is not known" for name in remaining if not name.startswith(unused)]
    if problems:
        more = f"\n  and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ValueError("the weights do not fit the .conf:\n  " + "\n  ".join(problems[:10]) + more)
    return converted


def _legacy_name(name: str, layers: Sequence[LegacyLayer]) -> str | None:
    """Say what the original calls one of our weights; ``None`` for what it does not have."""
    collection, *rest = name.split(".")
    if collection != "layers":
        return None
    index, part, *parameter = rest
    layer = layers[int(index)]
    is_normalised = part in ("conv", "residual") and getattr(layer.spec, "spectral_norm", False)
    suffix = ".".join(parameter)
    names = layer.prefix, _PARTS[layer.spec.type][part], _NORMALISED[suffix] if is_normalised else suffix
    return ".".join(filter(None, names))


def _has_unused_batch_norm(spec: LayerSpec) -> bool:
    return isinstance(spec, FullAttentionSpec) and not spec.batch_norm
