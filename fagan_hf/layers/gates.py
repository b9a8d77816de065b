"""The gates: how much of each layer's output comes from attention, read and turned."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from fagan_hf.layers.setting import Setting
from fagan_hf.utils.suggest import suggest

# Gates by identity -> what stands in for them. Threads that share a model don't see each other's.
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


def current_gate(gate: nn.Parameter) -> Tensor | float:
    """Give a gate as it stands: the trained one, or what `override_alpha` put in its place."""
    overrides = _OVERRIDES.get()
    return overrides.get(id(gate), gate) if overrides else gate


def overridden(network: nn.Module) -> dict[str, float]:
    """Give the gates that are overridden here, by name: what `override_alpha` takes for a copy of the network."""
    overrides = _OVERRIDES.get()
    return {name: overrides[id(gate)] for name, gate in gates(network).items() if id(gate) in overrides}


@contextmanager
def override_alpha(network: nn.Module, alpha: float | Mapping[str, float]) -> Iterator[None]:
    """Let a network draw with other gates than its trained ones; the parameters themselves stay as they are.

    It holds for this network, not for copies that are made of it meanwhile, and in this thread.

    For a `FullAttention` 0 is the convolution alone, 1 the attention alone. For a `SelfAttention`, whose gate is
    gamma, 0 is the feature map as it came in and 1 adds all of what attention gathers. Other numbers are allowed:
    training does not bound the gates either.

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
    """Take numbers of any kind, a tensor's or an array's single one too."""
    try:
        number = float("nan") if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError, RuntimeError):  # what torch raises for more than one number
        number = float("nan")
    if not math.isfinite(number):
        raise ValueError(f"alpha of {name} is {value!r}; it must be a finite number, usually from 0 to 1")
    return number
