"""What attention does in a trained network: where positions look, how far, how much of the output comes from it.

Drawn by `fagan_hf.attention_maps.pictures`.
"""

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend
from torch.utils.flop_counter import FlopCounterMode

from fagan_hf.layers import LAYERS, AttentionLayer
from fagan_hf.layers.chunked_attention import WEIGHTS_PER_CORE, WEIGHTS_PER_KERNEL
from fagan_hf.layers.functional import Kernel, KernelChoice, choose_kernel
from fagan_hf.models import Discriminator, Generator
from fagan_hf.sampling.images import eval_mode, input_batches

WEIGHTS_PER_CHUNK = 2**20
"""Attention weights that `attention_statistics` holds at a time, in several tensors; 4 MB each."""

Position = tuple[int, int]


@dataclass(frozen=True, eq=False)
class CapturedAttention:
    """What one attention layer did in a forward pass; detached, on the layer's device.

    Attributes:
        weights: Where each query position looks, ``[batch, heads, queries, rows, columns]``, float32: every map is at
            least 0 and sums to 1. It has fewer positions than the layer's own map where keys are pooled.
        plain: What the layer would output without attention, ``[batch, channels, height, width]``, before the gate.
        gathered: What attention gathered, of the same shape, before the gate.
        gate: The gate, as it was trained or overridden.
        positions: The queries' (row, column) in the layer's own feature map.
    """

    weights: Float[Tensor, "batch heads queries rows columns"]
    plain: Float[Tensor, "batch channels height width"]
    gathered: Float[Tensor, "batch channels height width"]
    gate: float
    positions: list[Position]

    @property
    def shape(self) -> Position:
        """Height and width of the layer's own map, where queries are."""
        return self.plain.shape[2], self.plain.shape[3]


@contextmanager
def capture_attention(
    network: nn.Module, positions: Sequence[Position] = (), *, whole: bool = False, image_size: int | None = None
) -> Iterator[dict[str, CapturedAttention]]:
    """Record what the attention layers of a network do in the forward passes of this context.

    Each layer's query, key and branches are computed a second time, without gradients. Passes of other threads through
    the same network are not recorded. The weights of all N positions over all N, which grow with the fourth power of
    the image size, are held only where `whole` asks for them.

    Args:
        network: In eval mode; any module with attention layers in it, or such a layer.
        positions: Queries, as (row, column) in pixels of the image. Each layer takes the position of its own map that
            lies there. Where the image size is not known, they are positions of the layer's own map.
        whole: Take all positions of each layer as queries, row by row, instead of chosen ones?
        image_size: Height and width of the image [pixels]; by default the network's config's.

    Yields:
        A dictionary that each forward pass fills anew, with the layers' names as in ``network.named_modules()``; the
        name of a layer alone is ``""``.

    Raises:
        ValueError: There is no attention layer, the network is in training mode, in which the second computation would
            move its batch and spectral norms, or a position is outside. Without an image size the last is found in the
            forward pass.

    Example:
        >>> with capture_attention(generator, [(12, 16)]) as captured:  # doctest: +SKIP
        ...     images = generator(latents)
        >>> captured["layers.2"].weights.shape  # doctest: +SKIP
        torch.Size([1, 1, 1, 16, 16])
    """
    layers = {name: module for name, module in network.named_modules() if isinstance(module, AttentionLayer)}
    if not layers:
        raise ValueError(f"{type(network).__name__} has no attention layer")
    if any(module.training for module in network.modules()):
        raise ValueError(f"{type(network).__name__} is in training mode; call .eval() before its attention is captured")
    if whole and positions:
        raise ValueError(f"positions are {list(positions)} and whole is true; give one of both")
    if image_size is None:
        image_size = getattr(getattr(network, "config", None), "image_size", None)
    if image_size is not None:
        check_positions(positions, image_size, image_size)
    captured: dict[str, CapturedAttention] = {}
    thread = threading.get_ident()

    def hook(name: str, layer: AttentionLayer, args: tuple, *others: Any) -> None:
        # In somebody else's pass through the same network torch may leave out the keyword arguments, where this hook is
        # removed meanwhile.
        if threading.get_ident() != thread:
            return
        kwargs, _ = others
        captured[name] = _capture(layer, args, kwargs, None if whole else positions, image_size)

    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.enter_context(layer.register_forward_hook(partial(hook, name), with_kwargs=True))
        yield captured


@torch.no_grad()
def _capture(
    layer: AttentionLayer, args: tuple, kwargs: dict[str, Any], positions: Sequence[Position] | None, size: int | None
) -> CapturedAttention:
    """Compute what a layer did once more; all positions where ``positions`` is none."""
    feature_map = args[0] if args else kwargs["feature_map"]
    query, key = layer.query_and_key(feature_map)
    plain, gathered = layer.branches(*args, **kwargs)
    height, width = query.shape[2:]
    if positions is None:
        chosen = [divmod(index, width) for index in range(height * width)]
    elif size is None:
        check_positions(positions, height, width)
        chosen = list(positions)
    else:
        chosen = [position_on_map(position, size, height, width) for position in positions]
    indices = torch.tensor([row * width + column for row, column in chosen], dtype=torch.long, device=query.device)
    with torch.autocast(query.device.type, enabled=False):
        scores = _heads_last(query, layer.heads)[:, :, indices] @ _heads_last(key, layer.heads).mT
        weights = scores.softmax(-1).float().unflatten(-1, key.shape[2:])
    return CapturedAttention(weights, plain.detach(), gathered.detach(), float(layer.gate), chosen)


def _heads_last(feature_map: Tensor, heads: int) -> Float[Tensor, "batch heads positions channels"]:
    """Order a query or key for a product over channels, in single precision at least."""
    dtype = torch.promote_types(feature_map.dtype, torch.float32)
    return feature_map.to(dtype).flatten(2).unflatten(1, (heads, -1)).mT.contiguous()


def check_positions(positions: Sequence[Position], height: int, width: int) -> None:
    """Refuse positions that are no (row, column) inside of ``height`` x ``width``.

    Raises:
        ValueError: One is not; says what is allowed.
    """
    for position in positions:
        is_pair = isinstance(position, Sequence) and len(position) == 2
        is_whole = is_pair and all(isinstance(each, int | np.integer) for each in position)
        if not is_whole or not (0 <= position[0] < height and 0 <= position[1] < width):
            raise ValueError(
                f"position is {position!r}; it must be (row, column), whole numbers from (0, 0) to "
                f"({height - 1}, {width - 1})"
            )


def position_on_map(position: Position, image_size: int, height: int, width: int) -> Position:
    """Find the position of a feature map that lies where a pixel of the image is."""
    return position[0] * height // image_size, position[1] * width // image_size


class AttentionStatistics(NamedTuple):
    """Means over all queries, heads and images.

    Attributes:
        distance: How far away the keys are that a query gathers from, weighted by attention [query positions].
        entropy: That of a query's weights, divided by its largest, log N of N keys: 1 is uniform, 0 a single key.
    """

    distance: float
    entropy: float


@torch.no_grad()
def attention_statistics(
    query: Float[Tensor, "batch key_channels height width"],
    key: Float[Tensor, "batch key_channels rows columns"],
    heads: int = 1,
) -> AttentionStatistics:
    """Measure how far attention reaches and how spread out it is, with memory that grows linearly with positions.

    Args:
        query: A layer's query, as `AttentionLayer.query_and_key` gives it.
        key: Its key; one of fewer positions stands for the squares around them.
        heads: Number of groups of channels that attend on their own.

    Reference:
        Mean attention distance: Dosovitskiy et al., An Image is Worth 16x16 Words, arXiv:2010.11929, figure 7.
    """
    (rows, columns), (key_rows, key_columns) = (_centres(each, query) for each in (query, key))
    distance = torch.zeros((), dtype=torch.float64)
    entropy = torch.zeros((), dtype=torch.float64)
    with torch.autocast(query.device.type, enabled=False):
        queries, keys = _heads_last(query, heads), _heads_last(key, heads)
        rows_at_a_time = max(1, WEIGHTS_PER_CHUNK // keys.shape[:-1].numel())
        split = [each.split(rows_at_a_time, dim=-1) for each in (rows, columns)]
        for chunk, row, column in zip(queries.split(rows_at_a_time, dim=2), *split, strict=True):
            distances = torch.hypot(row[:, None] - key_rows, column[:, None] - key_columns)
            log_weights = (chunk @ keys.mT).log_softmax(-1)
            weights = log_weights.exp()
            # Rows on the device, the rest on the CPU: Apple's GPUs have no doubles.
            distance += (weights * distances).sum(-1).cpu().sum(dtype=torch.float64)
            entropy -= (weights * log_weights).sum(-1).cpu().sum(dtype=torch.float64)
    count = queries.shape[:-1].numel()
    # One position has nothing to choose from: its entropy is 0, as is the log that it would be divided by.
    return AttentionStatistics(float(distance) / count, float(entropy) / count / (math.log(keys.shape[2]) or 1.0))


def _centres(feature_map: Tensor, grid: Tensor) -> tuple[Float[Tensor, " positions"], Float[Tensor, " positions"]]:
    """Give the rows and columns of a map's positions on the grid of another that shows the same [grid positions]."""
    rows, columns = (
        (torch.arange(size, device=grid.device) + 0.5) * (whole / size)
        for size, whole in zip(feature_map.shape[2:], grid.shape[2:], strict=True)
    )
    return rows.repeat_interleave(len(columns)), columns.repeat(len(rows))


def uniform_distance(queries: Position, keys: Position) -> float:
    """Give the mean attention distance of uniform attention [query positions].

    Args:
        queries: Height and width of the query's map [positions].
        keys: The same of the key's.
    """
    # Squared differences of rows and of columns by query and key; all pairs of both make up the mean.
    rows, columns = (
        np.subtract.outer((np.arange(queries[axis]) + 0.5), (np.arange(keys[axis]) + 0.5) * queries[axis] / keys[axis])
        for axis in range(2)
    )
    row_steps, row_counts = np.unique(abs(rows), return_counts=True)
    column_steps, column_counts = np.unique(abs(columns), return_counts=True)
    distances = np.hypot(row_steps[:, None], column_steps)
    return float((distances * row_counts[:, None] * column_counts).sum() / (rows.size * columns.size))


@dataclass(frozen=True)
class KernelReport:
    """How a layer's attention is computed, as `fagan_hf.layers.functional.choose_kernel` chooses.

    Attributes:
        device, dtype: Of the tensors: what it is chosen for, beside positions and sizes.
        heads: Number of groups of channels that attend on their own.
        key_size, value_size: Channels of a head's query and key, and of its value.
        kernel: ``"fused"``, torch's, or ``"chunked"``, ours.
        kernel_key_size, kernel_value_size: Both sizes as the kernel gets them, with the zeros that are added.
        backend: Which of torch's kernels a fused one is, as torch itself chooses: ``"flash"``, ``"efficient"``,
            ``"cudnn"``, or ``"math"``, which is none and holds all weights at once. ``None`` for ours, and where torch
            can't be asked: on other devices than CPUs and CUDA's.
        weights_held: What is held of all queries' weights at a time, in words.
    """

    device: str
    dtype: str
    heads: int
    key_size: int
    value_size: int
    kernel: Kernel
    kernel_key_size: int
    kernel_value_size: int
    backend: str | None
    weights_held: str


def _kernel_report(layer: AttentionLayer, query: Tensor, key: Tensor, gathered: Tensor) -> KernelReport:
    """Say how attention gets from these to what is gathered in this layer."""
    positions = key.shape[2:].numel()
    key_size, value_size = query.shape[1] // layer.heads, gathered.shape[1] // layer.heads
    choice = choose_kernel(query.device, query.dtype, positions, key_size, value_size)
    backend = None
    if choice.kernel == "fused" and query.device.type in ("cpu", "cuda"):
        backend = _backend(query, key, layer.heads, choice)
    return KernelReport(
        device=query.device.type,
        dtype=str(query.dtype).removeprefix("torch."),
        heads=layer.heads,
        key_size=key_size,
        value_size=value_size,
        kernel=choice.kernel,
        kernel_key_size=choice.key_size,
        kernel_value_size=choice.value_size,
        backend=backend,
        weights_held=_weights_held(query.device, choice.kernel, backend),
    )


def _backend(query: Tensor, key: Tensor, heads: int, choice: KernelChoice) -> str:
    """Ask torch which of its kernels `scaled_dot_product_attention` takes for what the fused way hands over."""
    queries, keys, values = (
        like.new_empty(len(like), heads, like.shape[2:].numel(), size)
        for like, size in ((query, choice.key_size), (key, choice.key_size), (key, choice.value_size))
    )
    # What `scaled_dot_product_attention` itself calls. `torch.backends.cuda.can_use_flash_attention` and its likes say
    # what is possible, on CUDA only, not what is taken.
    chosen = SDPBackend(torch._fused_sdp_choice(queries, keys, values, scale=1.0))
    return chosen.name.removesuffix("_ATTENTION").lower()


def _weights_held(device: torch.device, kernel: Kernel, backend: str | None) -> str:
    if kernel == "fused":
        return "all" if backend == "math" else "unknown" if backend is None else "none"
    return f"up to {WEIGHTS_PER_CORE:,} a core" if device.type == "cpu" else f"up to {WEIGHTS_PER_KERNEL:,}"


@dataclass(frozen=True)
class LayerReport:
    """One layer of a network in numbers; what is ``None`` has no meaning for a layer without attention.

    Attributes:
        name: Such as ``"layers.0"``, or ``"layers.0.branch"`` of a block's attention.
        type: Its spec's, such as ``"full_attention"``.
        height, width: Of what comes out [positions].
        parameters: Trained numbers.
        flops: Floating-point operations of one image's forward pass in convolutions, linear maps and attention; a
            multiply-add counts as 2. Biases, norms, softmax and activations are left out, and so is what is done once
            for any number of images: dividing weights by their spectral norm.
        positions: N, the queries.
        key_positions: The keys that each attends to: N, or fewer where keys are pooled.
        gate: As trained or overridden.
        attention_energy: Attention's share of the output's energy, from 0 to 1: ``|a|^2 / (|a|^2 + |b|^2)`` for the
            attention term a and the other term b, whose sum is the output. Twice their product, which the output's
            energy has as well, is left out: what both do together is nobody's share.
        distance: Mean attention distance [image pixels].
        uniform_distance: The same if attention were uniform [image pixels].
        entropy: Mean entropy of the weights, from 0, one position, to 1, uniform.
        kernel: How attention is computed here.
        is_part: Is it inside of another layer, whose parameters and operations have its own in them?
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
    network: Generator | Discriminator,
    inputs: Tensor,
    labels: Float[Tensor, "count num_labels"] | None = None,
    *,
    batch_size: int = 16,
) -> list[LayerReport]:
    """Describe the layers of a network, attention's numbers as means over inputs.

    Args:
        network: On any device, in any mode: it works in eval mode and comes back as it was.
        inputs: Latents ``[count, latent_dim]`` for a generator, images ``[count, 3, size, size]`` in [-1, 1] for a
            discriminator; at least one.
        labels: As many, for a conditional network.
        batch_size: Inputs at a time; changes memory and speed, not the numbers.

    Returns:
        One report per layer, in the network's order; that of a block, which is a layer with attention layers inside, is
        followed by theirs, whose parameters and operations it has counted already.

    Raises:
        ValueError: There are no inputs, ``batch_size`` is not positive, or inputs or labels don't fit the network.
    """
    if len(inputs) == 0 or batch_size < 1:
        raise ValueError(f"{len(inputs)} inputs in batches of {batch_size}; there must be at least one of each")
    reported = _reported_layers(network)
    visits: dict[str, list[_Visit]] = {name: [] for name in reported}

    def hook(visits: list[_Visit], layer: nn.Module, args: tuple, output: Tensor) -> None:
        visits.append(_visit(layer, args, output))

    with eval_mode(network):
        flops = _flops_of_one_image(network, reported, inputs[:1], labels if labels is None else labels[:1])
        with ExitStack() as stack:
            for name, (_, layer) in reported.items():
                stack.enter_context(layer.register_forward_hook(partial(hook, visits[name])))
            for batch in input_batches(network, inputs, labels, batch_size):
                network(*batch)
    return [
        _report(name, kind, layer, flops[name], visits[name], network.config.image_size)
        for name, (kind, layer) in reported.items()
    ]


def _reported_layers(network: Generator | Discriminator) -> dict[str, tuple[str, nn.Module]]:
    """Give type and module of a network's layers, each followed by the attention layers that it is made of, by name."""
    kinds = {layer: kind for kind, layer in LAYERS.items()}
    found = {}
    for index, (spec, layer) in enumerate(zip(network.config.layers, network.layers, strict=True)):
        for name, module in layer.named_modules(prefix=f"layers.{index}"):
            if module is layer:
                found[name] = spec.type, module
            elif isinstance(module, AttentionLayer):
                found[name] = kinds.get(type(module), type(module).__name__), module
    return found


class _Visit(NamedTuple):
    """What one batch was in one layer."""

    images: int
    output_shape: tuple[int, int]
    map_shape: Position | None = None
    key_shape: Position | None = None
    plain_energy: float = 0.0
    attention_energy: float = 0.0
    distance: float = 0.0
    entropy: float = 0.0
    kernel: KernelReport | None = None


def _visit(layer: nn.Module, args: tuple, output: Tensor) -> _Visit:
    height, width = output.shape[2:]
    if not isinstance(layer, AttentionLayer):
        return _Visit(len(output), (height, width))
    query, key = layer.query_and_key(args[0])
    branches = layer.branches(*args)
    plain, attended = (
        term.float().square().flatten(1).sum(1).cpu().double().sum().item() for term in layer.blend(*branches)
    )
    statistics = attention_statistics(query, key, layer.heads)
    map_shape, key_shape = ((each.shape[2], each.shape[3]) for each in (query, key))
    kernel = _kernel_report(layer, query, key, branches[1])
    return _Visit(len(output), (height, width), map_shape, key_shape, plain, attended, *statistics, kernel)


def _flops_of_one_image(
    network: Generator | Discriminator,
    reported: Mapping[str, tuple[str, nn.Module]],
    inputs: Tensor,
    labels: Tensor | None,
) -> dict[str, int]:
    """Count the operations of layers by name; those of a layer's attention are its own as well."""
    arguments: dict[nn.Module, tuple] = {}

    def hook(layer: nn.Module, args: tuple, output: Tensor) -> None:
        arguments[layer] = args

    with ExitStack() as stack:
        for _, layer in reported.values():
            stack.enter_context(layer.register_forward_hook(hook))
        for batch in input_batches(network, inputs, labels, batch_size=1):
            network(*batch)

    def products(layer: AttentionLayer) -> int:
        query, key = layer.query_and_key(arguments[layer][0])
        _, gathered = layer.branches(*arguments[layer])
        return 2 * query.shape[2:].numel() * key.shape[2:].numel() * (query.shape[1] + gathered.shape[1])

    def flops(layer: nn.Module) -> int:
        # The counter fails in inference mode.
        with torch.inference_mode(False), torch.no_grad(), FlopCounterMode(display=False) as counter:
            layer(*arguments[layer])
        counts = counter.get_flop_counts().get("Global", {})  # no entry where nothing was counted
        attentive = [module for module in layer.modules() if isinstance(module, AttentionLayer)]
        if not attentive:
            return sum(counts.values())
        # Which of attention's operations torch counts depends on the kernel, and those that it counts include the zeros
        # that we fill heads up with; so attention is counted by what it is, two products of all weights with channels.
        is_product = [any(word in str(operation) for word in ("attention", "bmm")) for operation in counts]
        others = sum(count for count, is_ours in zip(counts.values(), is_product, strict=True) if not is_ours)
        return others + sum(map(products, attentive))

    return {name: flops(layer) for name, (_, layer) in reported.items()}


def _report(
    name: str, kind: str, layer: nn.Module, flops: int, visits: Sequence[_Visit], image_size: int
) -> LayerReport:
    height, width = visits[0].output_shape
    parameters = sum(parameter.numel() for parameter in layer.parameters())
    map_shape, key_shape = visits[0].map_shape, visits[0].key_shape
    if map_shape is None or key_shape is None or not isinstance(layer, AttentionLayer):
        return LayerReport(name, kind, height, width, parameters, flops)
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
        is_part=name.count(".") > 1,
    )
