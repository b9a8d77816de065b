"""Capture the attention weights of a network in a forward pass.

`fagan_hf.attention_maps.pictures` draws them.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fagan_hf.attention_maps.observe import observe_attention
from fagan_hf.attention_maps.positions import Position, check_positions, position_on_map
from fagan_hf.layers import AttentionLayer


@dataclass(frozen=True, eq=False)
class CapturedAttention:
    """What one attention layer did in a forward pass; detached, on the layer's device.

    Attributes:
        weights: Attention weights of each query, ``[batch, heads, queries, rows, columns]``, float32: every map is
            nonnegative and sums to 1. It has fewer positions than the layer's feature map if keys are pooled.
        plain: The layer's output without attention, ``[batch, channels, height, width]``, before the gate.
        gathered: The output of attention, of the same shape, before the gate.
        gate: The gate, trained or overridden.
        positions: The queries' (row, column) in the layer's feature map.
    """

    weights: Float[Tensor, "batch heads queries rows columns"]
    plain: Float[Tensor, "batch channels height width"]
    gathered: Float[Tensor, "batch channels height width"]
    gate: float
    positions: list[Position]

    @property
    def shape(self) -> Position:
        """Height and width of the layer's feature map of queries."""
        return self.plain.shape[2], self.plain.shape[3]


def attention_layers(network: nn.Module) -> dict[str, AttentionLayer]:
    """Return the attention layers by their names in ``network.named_modules()``, in order."""
    return {name: module for name, module in network.named_modules() if isinstance(module, AttentionLayer)}


@contextmanager
def capture_attention(
    network: nn.Module, positions: Sequence[Position] = (), *, whole: bool = False, image_size: int | None = None
) -> Iterator[dict[str, CapturedAttention]]:
    """Record what the attention layers of a network do in the forward passes of this context.

    Each layer is computed a second time, without gradients. Passes of other threads through the same network are not
    recorded. The full matrix of N x N weights, which grows with the fourth power of the image size, is kept only if
    `whole` is set. Each layer is asked for its own `AttentionLayer.weights`, and these are compared with what
    `AttentionLayer.attend` gathered: a map is true, or the layer is refused.

    Args:
        network: In eval mode; any module with attention layers in it, or such a layer.
        positions: Queries, as (row, column) in pixels of the image. Each layer uses the corresponding position of its
            feature map. If the image size is unknown, they are positions of the layer's feature map.
        whole: Use all positions of each layer as queries, row by row.
        image_size: Height and width of the image [pixels]; by default that of the network's config.

    Yields:
        A dictionary that each forward pass refills, with the layers' names as in ``network.named_modules()``; if
        `network` is itself a layer its name is ``""``.

    Raises:
        ValueError: There is no attention layer, the network is in training mode, in which the second computation would
            update its batch and spectral norms, or a position is outside the image. In the forward pass: a position is
            outside a layer's map, if there is no image size, or a layer's weights are not those by which it attends, or
            don't sum to 1; see `observe_attention`.

    Example:
        >>> with capture_attention(generator, [(12, 16)]) as captured:  # doctest: +SKIP
        ...     images = generator(latents)
        >>> captured["layers.2"].weights.shape  # doctest: +SKIP
        torch.Size([1, 1, 1, 16, 16])
    """
    layers = attention_layers(network)
    if not layers:
        raise ValueError(f"{type(network).__name__} has no attention layer")
    if any(module.training for module in network.modules()):
        raise ValueError(f"{type(network).__name__} is in training mode; call .eval() before its attention is captured")
    if whole and positions:
        raise ValueError(f"positions are {list(positions)} and whole is true; give only one of them")
    if image_size is None:
        image_size = getattr(getattr(network, "config", None), "image_size", None)
    if image_size is not None:
        check_positions(positions, image_size, image_size)
    captured: dict[str, CapturedAttention] = {}
    thread = threading.get_ident()

    def hook(name: str, layer: AttentionLayer, args: tuple, *others: Any) -> None:
        # In another thread's pass torch may omit the keyword arguments if this hook is removed meanwhile.
        if threading.get_ident() != thread:
            return
        kwargs, _ = others
        captured[name] = _capture(name, layer, args, kwargs, None if whole else positions, image_size)

    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.enter_context(layer.register_forward_hook(partial(hook, name), with_kwargs=True))
        yield captured


@torch.no_grad()
def _capture(
    name: str,
    layer: AttentionLayer,
    args: tuple,
    kwargs: dict[str, Any],
    positions: Sequence[Position] | None,
    size: int | None,
) -> CapturedAttention:
    """Recompute a layer's attention; for all positions if ``positions`` is ``None``."""
    seen = observe_attention(layer, *args, **kwargs, name=name)
    height, width = seen.map_shape
    if positions is None:
        chosen = [divmod(index, width) for index in range(height * width)]
    elif size is None:
        check_positions(positions, height, width)
        chosen = list(positions)
    else:
        chosen = [position_on_map(position, size, height, width) for position in positions]
    indices = torch.tensor([row * width + column for row, column in chosen], dtype=torch.long, device=seen.query.device)
    weights = seen.weights(indices).float().unflatten(-1, seen.key_shape)
    return CapturedAttention(weights, seen.plain.detach(), seen.gathered.detach(), float(layer.gate), chosen)
