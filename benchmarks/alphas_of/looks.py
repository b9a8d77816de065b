"""Where layers look: how far, how widely, at the same part of a portrait, and at the mirrored position."""

import math
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from fagan_hf.attention_maps.capture import attention_layers
from fagan_hf.attention_maps.observe import ObservedAttention, observe_attention
from fagan_hf.attention_maps.statistics import attention_statistics, uniform_distance
from fagan_hf.data.avatar_parts import PARTS
from fagan_hf.sampling.images import eval_mode

Look = dict[str, float]
"""Means over images, heads and queries of one layer:

- ``distance`` relative to that of uniform attention, and ``entropy`` relative to its maximum;
- ``itself``, ``mirrored``: weight of the key at the query's position, and of the key at the position mirrored at the
  vertical axis, each relative to that of uniform attention, 1 over the number of keys;
- ``same_part``: weight of the keys that show the same part as the query, relative to that of uniform attention, which
  is the part's share of the image; only with known parts.
"""


@torch.no_grad()
def looks(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor | None = None,
    *,
    parts: UInt8[np.ndarray, "count size size"] | None = None,
) -> dict[str, Look]:
    """Measure where each attention layer of a network looks.

    Args:
        network: A generator or a discriminator; run in eval mode, then restored.
        inputs: Latents, or images in [-1, 1].
        labels: One for each input of a conditional network.
        parts: Part of each pixel, see `fagan_hf.data.avatar_parts.source_parts`; in the order of ``inputs``.

    Raises:
        ValueError: The network has no attention layer, or there are not as many masks as inputs.
    """
    layers = attention_layers(network)
    if not layers:
        raise ValueError(f"{type(network).__name__} has no attention layer, so it looks nowhere")
    if parts is not None and len(parts) != len(inputs):
        raise ValueError(f"there are masks of {len(parts)} images for {len(inputs)} inputs; give one for each")
    found: dict[str, Look] = {}

    def hook(name: str, layer: Any, args: tuple, kwargs: dict[str, Any], _: Tensor) -> None:
        found[name] = _look(observe_attention(layer, *args, name=name, **kwargs), parts)

    with eval_mode(network), ExitStack() as stack:
        for name, layer in layers.items():
            stack.enter_context(layer.register_forward_hook(partial(hook, name), with_kwargs=True))
        network(*(each for each in (inputs, labels) if each is not None))
    return {name: found[name] for name in layers}


def _look(seen: ObservedAttention, parts: np.ndarray | None) -> Look:
    distance, entropy = attention_statistics(seen)
    (height, width), (rows, columns) = seen.map_shape, seen.key_shape
    row, column = (each.flatten() for each in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    cells = {
        "itself": row * rows // height * columns + column * columns // width,
        "mirrored": row * rows // height * columns + (width - 1 - column) * columns // width,
    }
    weights = seen.weights(torch.arange(height * width, device=seen.query.device)).cpu()
    look = {"distance": distance / uniform_distance(seen.map_shape, seen.key_shape), "entropy": entropy}
    for name, cell in cells.items():
        index = cell.expand(*weights.shape[:2], -1)[..., None]
        look[name] = weights.gather(-1, index).mean().item() * math.prod(seen.key_shape)
    if parts is not None:
        look["same_part"] = _same_part(weights, torch.from_numpy(parts), seen)
    return {name: round(value, 4) for name, value in look.items()}


def _same_part(weights: Float[Tensor, "batch heads queries keys"], parts: Tensor, seen: ObservedAttention) -> float:
    shares = functional.one_hot(parts.long(), len(PARTS)).permute(0, 3, 1, 2).float()
    queries, keys = (
        functional.adaptive_avg_pool2d(shares, shape).flatten(2) for shape in (seen.map_shape, seen.key_shape)
    )
    # The same part: of a random pixel of the query and one of the key. [batch, queries, keys]
    is_same = queries.mT @ keys
    attended = (weights * is_same[:, None]).sum(-1).mean()
    return (attended / is_same.mean()).item()
