"""Read and override the gates: how much of each layer's output comes from attention."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from fagan_hf.layers.setting import Setting
from fagan_hf.utils.suggest import suggest

# Gates by identity -> their overrides. Threads that share a model don't see each other's overrides.
_OVERRIDES: Setting[Mapping[int, float]] = Setting("overridden_gates", default={})


def gates(network: nn.Module) -> dict[str, nn.Parameter]:
    """Find the gate of every attention layer, in the network's order.

    Returns:
        For example ``{"layers.0.alpha": ..., "layers.3.gamma": ...}``: the parameters themselves, scalars without
        bounds; 0 is no attention.
    """
    found = {}
    for name, module in network.named_modules():
        gate_name = getattr(type(module), "gate_name", None)
        if gate_name is not None:
            found[f"{name}.{gate_name}".removeprefix(".")] = getattr(module, gate_name)
    return found


def current_gate(gate: Tensor) -> Tensor | float:
    """Return the current value of a gate: the trained one, or the override by `override_alpha`."""
    overrides = _OVERRIDES.get()
    return overrides.get(id(gate), gate) if overrides else gate


def overridden(network: nn.Module) -> dict[str, float]:
    """Return the overrides in effect here, by name, for use with `override_alpha` on a copy of the network."""
    overrides = _OVERRIDES.get()
    return {name: overrides[id(gate)] for name, gate in gates(network).items() if id(gate) in overrides}


@contextmanager
def override_alpha(network: nn.Module, alpha: float | Mapping[str, float]) -> Iterator[None]:
    """Override the trained gates of a network inside this context; its parameters are not modified.

    It applies to this network, not to copies made inside the context, and to this thread only. Gates that are given to
    `torch.func.functional_call` take precedence.

    For a `FullAttention` 0 is convolution only, 1 attention only. For a `SelfAttention`, whose gate is gamma, 0 leaves
    the feature map unchanged and 1 adds the full attention output. Other values are allowed: training does not bound
    the gates either.

    Args:
        network: Any module with attention layers in it, or such a layer.
        alpha: One number for all layers, or numbers by layer, named as in `gates` with or without the gate's own name:
            ``{"layers.2": 0.0}``.

    Raises:
        ValueError: There is no attention layer, no layer of that name, or a number is not finite.

    Example:
        >>> with override_alpha(generator, 0.0):  # doctest: +SKIP
        ...     convolution_only = generator(latents)
    """
    found = gates(network)
    if not found:
        raise ValueError(f"{type(network).__name__} has no attention layer whose gate could be overridden")
    wanted = alpha if isinstance(alpha, Mapping) else dict.fromkeys(found, alpha)
    values = {id(_find_gate(found, name)): _check_finite(name, value) for name, value in wanted.items()}
    with _OVERRIDES.holding({**_OVERRIDES.get(), **values}):
        yield


def _find_gate(found: Mapping[str, nn.Parameter], name: str) -> nn.Parameter:
    by_layer = {full.rpartition(".")[0]: gate for full, gate in found.items()}
    if name not in found and name not in by_layer:
        raise ValueError(f"unknown attention layer {name!r}; {suggest(name, by_layer)}")
    return found[name] if name in found else by_layer[name]


def _check_finite(name: str, value: Any) -> float:
    """Accept numbers of any kind, including single-element tensors and arrays."""
    try:
        number = float("nan") if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError, RuntimeError):  # torch raises the last one for more than one element
        number = float("nan")
    if not math.isfinite(number):
        raise ValueError(f"alpha of {name} is {value!r}; it must be a finite number, usually from 0 to 1")
    return number
