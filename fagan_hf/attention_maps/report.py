"""Statistics of a network's layers: sizes, operations, and attention."""

import math
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fagan_hf.attention_maps.flops import flops_of_one_image
from fagan_hf.attention_maps.kernels import KernelReport, kernel_report
from fagan_hf.attention_maps.observe import observe_attention
from fagan_hf.attention_maps.positions import Position
from fagan_hf.attention_maps.statistics import attention_statistics, uniform_distance
from fagan_hf.layers import LAYERS, AttentionLayer
from fagan_hf.models.network import Network
from fagan_hf.sampling.images import eval_mode, input_batches


@dataclass(frozen=True)
class LayerReport:
    """Statistics of one layer; ``None`` for those that don't apply to a layer without attention.

    Attributes:
        name: Such as ``"layers.0"``, or ``"layers.0.branch"`` for a block's attention.
        type: Type of its spec, such as ``"full_attention"``.
        height, width: Size of the output [positions].
        parameters: Number of trained parameters.
        flops: Floating-point operations of one image's forward pass in convolutions, linear maps and attention; a
            multiply-add counts as 2. Biases, norms, softmax and activations are left out, and so is the division of
            weights by their spectral norm, which is done once for any number of images.
        positions: Number of queries, N.
        key_positions: Number of keys: N, or fewer if they are pooled.
        gate: The gate, trained or overridden.
        attention_energy: Attention's share of the output's energy, from 0 to 1: ``|a|^2 / (|a|^2 + |b|^2)`` for the
            attention term a and the other term b, whose sum is the output. Twice their product, which the output's
            energy also contains, is left out, because it belongs to neither term.
        distance: Mean attention distance [image pixels].
        uniform_distance: The same if attention were uniform [image pixels].
        entropy: Mean entropy of the weights, from 0, one position, to 1, uniform.
        kernel: How attention is computed here; ``None`` also if the layer has an `AttentionLayer.attend` of its own.
        is_part: Whether it is part of another layer, whose parameters and operations include its own.
    """

    name: str
    type: str
    height: int
    width: int
    parameters: int
    flops: int
    positions: int | None = None
    key_positions: int | None = None
    gate: float | None = None
    attention_energy: float | None = None
    distance: float | None = None
    uniform_distance: float | None = None
    entropy: float | None = None
    kernel: KernelReport | None = None
    is_part: bool = False


@torch.no_grad()
def inspect_layers(
    network: nn.Module,
    inputs: Tensor,
    labels: Float[Tensor, "count num_labels"] | None = None,
    *,
    batch_size: int = 16,
    image_size: int | None = None,
) -> list[LayerReport]:
    """Compute the statistics of a network's layers, averaged over inputs for attention.

    Args:
        network: A generator, a discriminator, or any module that holds layers of this library or attention layers
            derived from them; on any device, in any mode: run in eval mode, then restored.
        inputs: Latents ``[count, latent_dim]`` for a generator, images ``[count, channels, size, size]`` in [-1, 1] for
            a discriminator, or whatever another module takes; at least one.
        labels: One per input, for a conditional network: its forward's second argument.
        batch_size: Inputs per batch; affects only memory and speed.
        image_size: Height of the image [pixels], the unit of distances; by default that of the network's config, or of
            another module the largest height of an attention layer's map.

    Returns:
        One report per layer, in the network's order; the report of a block that contains attention layers is followed
        by theirs, whose parameters and operations it includes. Of another module than our networks only such layers
        are reported, and only those that it ran.

    Raises:
        ValueError: There are no inputs, ``batch_size`` is not positive, inputs or labels don't fit the network, it
            holds no such layer, or an attention layer's weights are not those by which it attends, or don't sum to 1;
            see `observe_attention`.
    """
    if len(inputs) == 0 or batch_size < 1:
        raise ValueError(f"{len(inputs)} inputs in batches of {batch_size}; there must be at least one of each")
    reported = _reported_layers(network)
    visits: dict[str, list[_Visit]] = {name: [] for name in reported}

    def hook(name: str, layer: nn.Module, args: tuple, kwargs: dict[str, Any], output: Tensor) -> None:
        visits[name].append(_visit(name, layer, args, kwargs, output))

    with eval_mode(network):
        flops = flops_of_one_image(network, reported, inputs[:1], labels if labels is None else labels[:1])
        with ExitStack() as stack:
            for name, (_, layer) in reported.items():
                stack.enter_context(layer.register_forward_hook(partial(hook, name), with_kwargs=True))
            for batch in input_batches(network, inputs, labels, batch_size):
                network(*batch)
    if image_size is None and isinstance(network, Network):
        image_size = network.config.image_size
    if image_size is None:
        heights = [visit.map_shape[0] for each in visits.values() for visit in each if visit.map_shape]
        image_size = max(heights, default=1)
    return [
        _report(name, kind, layer, flops[name], visits[name], image_size, is_part=_is_within(name, reported))
        for name, (kind, layer) in reported.items()
        if visits[name]
    ]


def _is_within(name: str, others: Iterable[str]) -> bool:
    """Return whether a module is part of one of the others, by their names."""
    return any(name != other and f"{name}.".startswith(f"{other}." if other else "") for other in others)


def _reported_layers(network: nn.Module) -> dict[str, tuple[str, nn.Module]]:
    """Return type and module of a network's layers, each followed by the attention layers in it, by name.

    Raises:
        ValueError: There are none.
    """
    kinds = {layer: kind for kind, layer in LAYERS.items()}
    found = {}
    if not isinstance(network, Network):
        for name, module in network.named_modules():
            if isinstance(module, AttentionLayer) or (type(module) in kinds and not _is_within(name, found)):
                found[name] = kinds.get(type(module), type(module).__name__), module
        if not found:
            raise ValueError(f"{type(network).__name__} holds no layer of fagan_hf.layers, nor one derived from them")
        return found
    for index, (spec, layer) in enumerate(zip(network.config.layers, network.layers, strict=True)):
        for name, module in layer.named_modules(prefix=f"layers.{index}"):
            if module is layer:
                found[name] = spec.type, module
            elif isinstance(module, AttentionLayer):
                found[name] = kinds.get(type(module), type(module).__name__), module
    return found


class _Visit(NamedTuple):
    """Statistics of one batch in one layer."""

    images: int
    output_shape: tuple[int, int]
    map_shape: Position | None = None
    key_shape: Position | None = None
    plain_energy: float = 0.0
    attention_energy: float = 0.0
    distance: float = 0.0
    entropy: float = 0.0
    kernel: KernelReport | None = None


def _visit(name: str, layer: nn.Module, args: tuple, kwargs: dict[str, Any], output: Tensor) -> _Visit:
    height, width = output.shape[2:]
    if not isinstance(layer, AttentionLayer):
        return _Visit(len(output), (height, width))
    seen = observe_attention(layer, *args, name=name, **kwargs)
    plain, attended = (
        term.float().square().flatten(1).sum(1).cpu().double().sum().item()
        for term in layer.blend(seen.plain, seen.gathered)
    )
    statistics = attention_statistics(seen)
    kernel = kernel_report(seen)
    return _Visit(len(output), (height, width), seen.map_shape, seen.key_shape, plain, attended, *statistics, kernel)


def _report(
    name: str, kind: str, layer: nn.Module, flops: int, visits: Sequence[_Visit], image_size: int, *, is_part: bool
) -> LayerReport:
    height, width = visits[0].output_shape
    parameters = sum(parameter.numel() for parameter in layer.parameters())
    map_shape, key_shape = visits[0].map_shape, visits[0].key_shape
    if map_shape is None or key_shape is None or not isinstance(layer, AttentionLayer):
        return LayerReport(name, kind, height, width, parameters, flops, is_part=is_part)
    images = [visit.images for visit in visits]
    attention_energy = math.fsum(visit.attention_energy for visit in visits)
    energy = attention_energy + math.fsum(visit.plain_energy for visit in visits)
    pixels = image_size / map_shape[0]
    return LayerReport(
        name=name,
        type=kind,
        height=height,
        width=width,
        parameters=parameters,
        flops=flops,
        positions=math.prod(map_shape),
        key_positions=math.prod(key_shape),
        gate=float(layer.gate),
        attention_energy=attention_energy / energy if energy else 0.0,
        distance=pixels * float(np.average([visit.distance for visit in visits], weights=images)),
        uniform_distance=pixels * uniform_distance(map_shape, key_shape),
        entropy=float(np.average([visit.entropy for visit in visits], weights=images)),
        kernel=visits[0].kernel,
        is_part=is_part,
    )
