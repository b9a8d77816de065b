"""The original's weights under our names; pickles are read without running code."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from fagan_hf.architectures.specs import FullAttentionSpec, LayerSpec
from fagan_hf.models.legacy.conf import LegacyLayer, missing_file


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read weights that the original saved, without running code: a pickle of anything but tensors is refused.

    Args:
        path: A file of ``torch.save(network.state_dict(), path)``, in the current format or the one before torch 1.6.
            The prefix that `nn.DataParallel` adds to all names is removed.

    Returns:
        Tensors on the CPU by the original's names.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is refused, is not a checkpoint, or contains something other than weights.
    """
    path = Path(path)
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise missing_file(path) from error
    with file:
        state = _load_without_code(path, file)
    if not isinstance(state, dict):
        raise ValueError(f"{path} contains {type(state).__name__}; it must contain a mapping of names to tensors")
    if {"state", "param_groups"} <= state.keys():
        raise ValueError(f"{path} contains the state of an optimizer; use that of a network, like GAN_GEN_10.pth")
    other = [name for name, value in state.items() if not isinstance(name, str) or not isinstance(value, Tensor)]
    if other or not state:
        what = f"{other[0]!r}: {type(state[other[0]]).__name__}" if other else "nothing"
        raise ValueError(f"{path} contains {what}; it must contain a mapping of names to tensors")
    is_parallel = all(name.startswith("module.") for name in state)
    return {name.removeprefix("module.") if is_parallel else name: tensor for name, tensor in state.items()}


def _load_without_code(path: Path, file: BinaryIO) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        # torch's message is left to the traceback: it explains how to run the code anyway.
        if named := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(
                f"{path} was refused, and no code in it was run: it references {named[1]}, and a pickle of more than "
                "tensors can run code when loaded. If you pickled a whole network, save its state_dict() instead"
            ) from error
        raise ValueError(f"{path} is truncated or was not saved by torch.save(network.state_dict(), ...)") from error


# Our names of a layer's submodules -> the original's.
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

# The same for a convolution with spectral norm, which the original wraps in a separate module.
_NORMALIZED = {
    "parametrizations.weight.original": "module.weight_bar",
    "parametrizations.weight.0.u": "module.weight_u",
    "parametrizations.weight.0.v": "module.weight_v",
    "bias": "module.bias",
}


def convert_state_dict(
    state: Mapping[str, Tensor], layers: Sequence[LegacyLayer], expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Rename the original's weights to our names.

    The singular vectors of spectral norm are kept exactly. The batch norm that the original creates in every full
    attention is dropped where it is unused. Batch counters, which torch has since 0.4.1, start at 0 where missing.

    Args:
        state: Returned by `read_state_dict`.
        layers: Returned by `read_conf`.
        expected: The state dict of our network, for its names and shapes. Tensors without a counterpart in the
            original, such as the label frequencies, are taken from here.

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
    problems += [f"{name} is unknown" for name in remaining if not name.startswith(unused)]
    if problems:
        more = f"\n  and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ValueError("the weights do not fit the .conf:\n  " + "\n  ".join(problems[:10]) + more)
    return converted


def _legacy_name(name: str, layers: Sequence[LegacyLayer]) -> str | None:
    """Return the original's name of one of our weights; ``None`` if it has no counterpart."""
    collection, *rest = name.split(".")
    if collection != "layers":
        return None
    index, part, *parameter = rest
    layer = layers[int(index)]
    is_normalized = part in ("conv", "residual") and getattr(layer.spec, "spectral_norm", False)
    suffix = ".".join(parameter)
    names = layer.prefix, _PARTS[layer.spec.type][part], _NORMALIZED[suffix] if is_normalized else suffix
    return ".".join(filter(None, names))


def _has_unused_batch_norm(spec: LayerSpec) -> bool:
    return isinstance(spec, FullAttentionSpec) and not spec.batch_norm
