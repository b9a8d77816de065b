"""A training step: ours against the peer's, time and memory."""

from typing import Any

import psutil  # comes with accelerate
import torch

from benchmarks.memory import peak_megabytes
from benchmarks.speed_of.equality import check_equal
from benchmarks.speed_of.our_step import Architecture, Ours
from benchmarks.speed_of.peer_step import Peer
from benchmarks.speed_of.settings import Settings, name_of
from benchmarks.speed_of.targets import Found, rows_against_peer
from benchmarks.speed_of.timing import alternate
from fagan_hf.architectures.presets import preset
from fagan_hf.layers import AttentionLayer
from fagan_hf.models import Discriminator, Generator
from fagan_hf.training.recipe import Precision

CLASSIC = "fagan-classic-64"
LOSSES = {"relativistic": "relativistic_hinge", "hinge": "hinge"}

_PREPARED = """
import torch
torch.set_num_threads({threads})
from benchmarks.speed_of.our_step import Ours, fill_moments
from fagan_hf.architectures.presets import preset
{make}
fill_moments(side.optimizers)
"""
_MAKE = {
    "ours": "side = Ours(preset({model!r}), {loss!r}, {batch}, {precision!r})",
    "peer": """
from benchmarks.speed_of.peer_step import Peer
side = Peer(preset({model!r}), {loss!r}, {batch}, {device!r})
""",
}


def measure_step(settings: Settings, batch: int = 32, model: str = CLASSIC) -> Found:
    """Compare steps of FAGAN's original networks, with two losses."""
    rows, details = [], {}
    for name, loss in LOSSES.items():
        found = _compare(settings, f"step, {name}", model, loss, batch)
        rows += found.rows
        details |= found.details
    memory = _compare_memory(settings, "step memory", model, "relativistic_hinge", batch)
    return Found(rows + memory.rows, details | memory.details)


def measure_full(settings: Settings) -> Found:
    """Compare steps of networks where every layer is full attention, at 64x64 and 128x128."""
    rows, details = [], {}
    for size, batch in ((64, 8),) if settings.is_quick else ((64, 8), (128, 2)):
        model = f"fagan-plain-{size}"
        for compare, what in ((_compare, "step"), (_compare_memory, "step memory")):
            found = compare(settings, f"full at {size}x{size}, {what}", model, "relativistic_hinge", batch)
            rows += found.rows
            details |= found.details
    return Found(rows, details)


def _compare(settings: Settings, name: str, model: str, loss: str, batch: int) -> Found:
    """Time the steps of both, alternating; ours in every precision."""
    architecture = preset(model)
    no_peer = _no_room(settings, model, batch)
    sides: dict[str, Any] = {} if no_peer else {"peer": Peer(architecture, loss, batch, settings.device)}
    differences: dict[str, Any] = {}
    for precision in settings.precisions():
        sides[name_of(precision)] = ours = Ours(architecture, loss, batch, precision)
        if not no_peer:
            differences[name_of(precision)] = check_equal(ours, sides["peer"])
    times = alternate({side: each.step for side, each in sides.items()}, settings.rounds, device=settings.device)
    medians = {side: each.median for side, each in times.items()}
    rows = rows_against_peer(name, medians, lambda each: f"{1e3 * each:,.0f} ms, {batch / each:,.1f} img/s", no_peer)
    seconds = {side: each.to_json() for side, each in times.items()}
    details = {"model": model, "loss": loss, "batch": batch, "equality_in_fp32": differences, "times": seconds}
    return Found(rows, {name: details})


def _compare_memory(settings: Settings, name: str, model: str, loss: str, batch: int) -> Found:
    """Measure the memory of a step beyond weights and optimizer state, in a separate process for each side."""

    def megabytes(side: str, precision: Precision) -> float:
        arguments = {"model": model, "loss": loss, "batch": batch, "precision": precision, "device": settings.device}
        prepared = _PREPARED.format(threads=settings.threads, make=_MAKE[side].format(**arguments))
        return peak_megabytes(prepared, "side.step()", settings.device)

    no_peer = _no_room(settings, model, batch)
    found = {name_of(precision): megabytes("ours", precision) for precision in settings.precisions()}
    if not no_peer:
        found["peer"] = megabytes("peer", "no")
    rows = rows_against_peer(name, found, lambda each: f"{each:,.0f} MB", no_peer)
    peak = {side: round(each, 1) for side, each in found.items()}
    return Found(rows, {name: {"model": model, "loss": loss, "batch": batch, "peak_megabytes": peak}})


def _no_room(settings: Settings, model: str, batch: int) -> str:
    """Return why the peer can't be run, or an empty text if it can."""
    held, free = peer_megabytes(preset(model), batch), free_megabytes(settings.device)
    return "" if held < free else f"not compared: the peer would need {held:,.0f} MB, {free:,.0f} MB are free"


def peer_megabytes(architecture: Architecture, batch: int) -> float:
    """Return the memory of the N x N weights that the peer holds in a step with the relativistic loss [MB].

    Each attention layer keeps its weights for the backward pass: the generator's for one call, the discriminator's for
    four. The backward pass of the largest layer adds their gradient, that of the softmax, and a transposed copy.
    Feature maps are not counted.
    """
    weights = [
        _weights(network, config) for network, config in zip((Generator, Discriminator), architecture, strict=True)
    ]
    numbers = sum(weights[0]) + 4 * sum(weights[1]) + 3 * max(weights[0] + weights[1])
    return 4e-6 * batch * numbers


@torch.no_grad()
def _weights(network_class: type[Generator] | type[Discriminator], config: Any) -> list[int]:
    """Count the attention weights of each layer for one image, positions times positions."""
    counts: list[int] = []
    network = network_class(config).eval()
    for module in network.modules():
        if isinstance(module, AttentionLayer):
            module.register_forward_hook(lambda _, __, output: counts.append(output[0, 0].numel() ** 2))
    network(torch.zeros((1, config.latent_dim) if network_class is Generator else (1, 3, *[config.image_size] * 2)))
    return counts


def free_megabytes(device: str) -> float:
    """Return the available memory [MB]."""
    return (torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available) / 1e6
