"""Controls: the same layers with other weights, by way of the layers' own `attend` and `weights`.

If a control does as well as attention, what helps is one more path through the layer, and not where it looks.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fagan_hf.attention_maps.capture import attention_layers
from fagan_hf.layers import AttentionLayer

CONTROLS = ("uniform", "random", "local", "swapped")
"""Weights that are equal; drawn once and the same for all images; the layer's own among the nearest keys only, as many
as the layer uses (the perplexity of its weights); and those of another image of the batch."""
TRAINED_CONTROLS = ("uniform", "random", "local")
"""Another image's weights are no control in training: the other image changes with every step."""
WINDOW = 9
"""Number of keys in a window of layers that are trained as ``local``."""
_SHARPNESS = 3.0  # standard deviation of the logits of random weights


def attend_by(weights: Float[Tensor, "batch heads queries keys"], value: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return the means of values by weights, on a map of ``shape``."""
    values = value.flatten(2).unflatten(1, (weights.shape[1], -1)).mT
    return (weights.to(values.dtype) @ values).mT.flatten(1, 2).unflatten(2, shape)


def control_weights(
    control: str,
    layer: AttentionLayer,
    query: Tensor,
    key: Tensor,
    queries: Int[Tensor, " queries"],
    *,
    window: int | None = None,
) -> Float[Tensor, "batch heads queries keys"]:
    """Return the weights of a control, for some queries.

    Args:
        control: One of `CONTROLS`.
        layer: The layer whose own weights are replaced; its class says what they are.
        query: As `AttentionLayer.attend` gets it.
        key: As `AttentionLayer.attend` gets it.
        queries: Indices of positions, row by row.
        window: Number of keys of ``local``; by default the perplexity of the layer's own weights in this batch.

    Raises:
        ValueError: There is no such control; or weights are to be another image's, and there is only one image.
    """
    count, keys = math.prod(query.shape[2:]), math.prod(key.shape[2:])
    shape = (len(query), layer.heads, len(queries), keys)
    own = getattr(type(layer), "own_weights", type(layer).weights)
    if control == "uniform":
        return query.new_full(shape, 1 / keys)
    if control == "random":
        return _random_weights(layer.heads, count, keys).to(query)[:, queries].expand(shape)
    if control == "swapped":
        if len(query) < 2:
            raise ValueError("another image's weights need at least 2 images in a batch, and there is 1")
        return own(layer, query.roll(1, 0), key.roll(1, 0), queries)
    if control == "local":
        if window is None:
            every = own(layer, query, key, torch.arange(count, device=query.device))
            window = max(1, round(torch.special.entr(every).sum(-1).mean().exp().item()))
        nearest = _distances(tuple(query.shape[2:]), tuple(key.shape[2:]))[queries.cpu()].argsort(stable=True)[
            :, :window
        ]
        is_near = torch.zeros(len(queries), keys, dtype=torch.bool).scatter_(1, nearest, True).to(query.device)
        weights = own(layer, query, key, queries) * is_near
        # Where the layer's own weights underflow in the window, they are equal there.
        weights = weights + is_near * torch.finfo(weights.dtype).tiny
        return weights / weights.sum(-1, keepdim=True)
    raise ValueError(f"control is {control!r}; there are {', '.join(CONTROLS)}")


@contextmanager
def replaced_weights(network: nn.Module, control: str) -> Iterator[None]:
    """Replace the weights of all attention layers of a trained network inside this context.

    Raises:
        ValueError: The network has no attention layer, or there is no such control. In a forward pass: see
            `control_weights`.
    """
    layers = attention_layers(network).values()
    if not layers:
        raise ValueError(f"{type(network).__name__} has no attention layer whose weights could be replaced")
    if control not in CONTROLS:
        raise ValueError(f"control is {control!r}; there are {', '.join(CONTROLS)}")

    def attend(weights: partial, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        shape = (query.shape[2], query.shape[3])
        return attend_by(weights(query, key, torch.arange(math.prod(shape), device=query.device)), value, shape)

    try:
        for layer in layers:
            weights = partial(control_weights, control, layer)
            vars(layer).update(weights=weights, attend=partial(attend, weights))
        yield
    finally:
        for layer in layers:
            for name in ("weights", "attend"):
                vars(layer).pop(name, None)


@cache
def _random_weights(heads: int, queries: int, keys: int) -> Tensor:
    logits = torch.randn(heads, queries, keys, generator=torch.Generator().manual_seed(queries * 65_537 + keys))
    return (_SHARPNESS * logits).softmax(-1)


@cache
def _distances(queries: tuple[int, int], keys: tuple[int, int]) -> Tensor:
    """Return the distance of every query to every key, both row by row [key positions]."""
    (rows, columns), (key_rows, key_columns) = (
        torch.meshgrid(
            *((torch.arange(size) + 0.5) * to / size for size, to in zip(shape, keys, strict=True)), indexing="ij"
        )
        for shape in (queries, keys)
    )
    return torch.hypot(rows.flatten()[:, None] - key_rows.flatten(), columns.flatten()[:, None] - key_columns.flatten())
