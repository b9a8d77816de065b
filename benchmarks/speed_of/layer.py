"""One full attention layer: ours against the peer's, time and memory by the number of positions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks.memory import peak_megabytes
from benchmarks.peer import copy_weights, peer_layer, wake
from benchmarks.speed_of.equality import check_tolerances
from benchmarks.speed_of.settings import Settings, name_of
from benchmarks.speed_of.targets import Found, Row, rows_against_peer
from benchmarks.speed_of.timing import alternate, growth
from fagan_hf.architectures.specs import FullAttentionSpec
from fagan_hf.layers import build_layer

_PREPARED = """
import torch
torch.set_num_threads({threads})
from benchmarks.speed_of.layer import Shape, Work
few, many = Shape({shape.in_channels}, {shape.out_channels}, 64, 1), {shape!r}
Work({side!r}, few, {device!r}, {precision!r})()  # loads the libraries
work = Work({side!r}, many, {device!r}, {precision!r})
"""


@dataclass(frozen=True)
class Shape:
    """A layer and the shape of its input.

    Attributes:
        in_channels: Input channels.
        out_channels: Output channels.
        positions: Number of positions in input and output, a square number.
        batch: Batch size.
    """

    in_channels: int
    out_channels: int
    positions: int
    batch: int

    @property
    def spec(self) -> FullAttentionSpec:
        """The layer."""
        return FullAttentionSpec(in_channels=self.in_channels, out_channels=self.out_channels, kernel_size=3, padding=1)

    @property
    def series(self) -> str:
        """Name of the layer, without the number of positions."""
        return f"{self.in_channels}->{self.out_channels}"

    def __str__(self) -> str:
        return f"{self.series} at N={self.positions:,}"


# The largest batch, up to 8, with which the peer fits into 8 GB at a layer's largest N: it holds 5 times N x N numbers
# for each feature map. The batch is the same for all N, so that the cost grows with N alone.
SHAPES = [
    *(Shape(128, 64, positions, batch=8) for positions in (256, 1024, 4096)),
    *(Shape(64, 32, positions, batch=1) for positions in (1024, 4096, 16384)),
]
QUICK = [SHAPES[1], SHAPES[2], SHAPES[4], SHAPES[5]]


class Work:
    """A layer's forward and backward pass.

    Args:
        side: ``"ours"``, as `Processes.prepare` prepares a network, or ``"peer"``.
        shape: Shape of the layer and its input.
        device: Where to compute.
        precision: ``"no"`` or ``"bf16"``.
    """

    def __init__(self, side: str, shape: Shape, device: str, precision: str = "no"):
        is_ours = side == "ours"
        layout: Any = {"memory_format": torch.channels_last if is_ours else torch.contiguous_format}
        self.device, self.is_half = device, precision == "bf16"
        self.layer = (build_layer(shape.spec) if is_ours else peer_layer(shape.spec)).train().to(device, **layout)
        random = torch.Generator().manual_seed(0)

        def feature_map(channels: int) -> Tensor:
            size = math.isqrt(shape.positions)
            return torch.randn(shape.batch, channels, size, size, generator=random).to(device, **layout)

        self.input = feature_map(shape.in_channels).requires_grad_()
        self.upstream = feature_map(shape.out_channels)

    def __call__(self) -> Tensor:
        """Compute the output and all gradients."""
        self.layer.zero_grad(set_to_none=True)
        self.input.grad = None
        with torch.autocast(self.device, torch.bfloat16, enabled=self.is_half):
            output = self.layer(self.input)
        output.backward(self.upstream.to(output.dtype))
        return output.detach()


def check_equal_layers(ours: Work, theirs: Work) -> dict[str, float]:
    """Copy the peer's weights to our layer, and compare outputs and input gradients in float32.

    Returns:
        The largest difference of the outputs, relative to the largest value, and that of the gradients, by norm.

    Raises:
        RuntimeError: They exceed the tolerances.
    """
    wake(theirs.layer)
    copy_weights(theirs.layer, ours.layer)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        outputs = [work() for work in (ours, theirs)]
    gradients = [cast(Tensor, work.input.grad) for work in (ours, theirs)]
    found = {"output_difference": _largest(*outputs), "gradient_difference": _length(*gradients)}
    check_tolerances(found)
    return found


def _largest(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def _length(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


def measure_layer(settings: Settings) -> Found:
    """Compare time and memory of layers by the number of positions."""
    shapes = QUICK if settings.is_quick else SHAPES
    rows: list[Row] = []
    details: dict[str, Any] = {}
    precisions = {name_of(precision): precision for precision in settings.precisions()}
    for shape in shapes:
        megabytes = {"peer": layer_megabytes("peer", shape, settings)}
        megabytes |= {name: layer_megabytes("ours", shape, settings, each) for name, each in precisions.items()}
        works = {"peer": Work("peer", shape, settings.device)}
        works |= {name: Work("ours", shape, settings.device, each) for name, each in precisions.items()}
        equality = check_equal_layers(works["fp32"], works["peer"])
        # The check has warmed up both in fp32.
        times = alternate(works, settings.rounds, device=settings.device, is_warm="bf16" not in works)
        seconds = {side: each.median for side, each in times.items()}
        rows += rows_against_peer(f"layer memory, {shape}", megabytes, lambda each: f"{each:,.1f} MB")
        rows += rows_against_peer(f"layer time, {shape}", seconds, lambda each: f"{1e3 * each:,.1f} ms")
        details[str(shape)] = {
            "batch": shape.batch,
            "equality_in_fp32": equality,
            "peak_megabytes": {side: round(each, 1) for side, each in megabytes.items()},
            "times": {side: each.to_json() for side, each in times.items()},
        }
    grown = {series: _growth([each for each in shapes if each.series == series], details) for series in _series(shapes)}
    for series, powers in grown.items():
        for what in ("memory", "time"):
            note = f"the peer's {powers['peer'][what]:.2f}"
            rows.append(Row(f"layer {what}, {series}, power of N", powers["fp32"][what], "", note))
    return Found(rows, {"layers": details, "grows_with_this_power_of_positions": grown})


def layer_megabytes(side: str, shape: Shape, settings: Settings, precision: str = "no") -> float:
    """Measure the peak memory of a forward and backward pass, in a separate process [MB].

    Args:
        side: ``"ours"`` or ``"peer"``.
        shape: The layer and its input.
        settings: Settings of the benchmark.
        precision: ``"no"`` or ``"bf16"``.
    """
    prepared = _PREPARED.format(
        side=side, shape=shape, threads=settings.threads, device=settings.device, precision=precision
    )
    return peak_megabytes(prepared, "work()", settings.device)


def _series(shapes: Sequence[Shape]) -> list[str]:
    """Return the names of the layers with several sizes."""
    names = [shape.series for shape in shapes]
    return [name for name in dict.fromkeys(names) if names.count(name) > 1]


def _growth(shapes: Sequence[Shape], details: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Fit the exponent with which memory and time grow with the number of positions, for each side."""
    found = [details[str(shape)] for shape in shapes]
    positions = [shape.positions for shape in shapes]
    return {
        side: {
            "memory": round(growth(positions, [each["peak_megabytes"][side] for each in found]), 3),
            "time": round(growth(positions, [each["times"][side]["median_seconds"] for each in found]), 3),
        }
        for side in found[0]["times"]
    }
