"""The flagship, whose keys are pooled, from 64x64 to 512x512: time and memory of a step, penalties included."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.memory import peak_megabytes
from benchmarks.speed_of.our_step import Architecture, Ours
from benchmarks.speed_of.settings import Settings
from benchmarks.speed_of.targets import Found, Row
from benchmarks.speed_of.timing import alternate, growth
from fagan_hf.architectures.presets import flagship
from fagan_hf.layers import FullAttention
from fagan_hf.training.step.regularization import Regularization

LOSS = "relativistic_pairing"
PENALTIES = Regularization(r1_gamma=1.0, r2_gamma=1.0)  # at every step, which is the most that a step can cost
SIZES = {64: 4, 128: 2, 256: 1, 512: 1}  # resolution: images per step
PRESETS = ("fagan-256", "fagan-256-small")
PRESET_BATCH = 4
KEYS = 32  # height and width of the largest map of keys, at every size
LAYER_SIZE, KEY_POOLING = 256, 8  # the last layer of fagan-256: 65,536 queries look at 1,024 keys

_PREPARED = """
import torch
torch.set_num_threads({threads})
from benchmarks.speed_of.our_step import Ours
from benchmarks.speed_of.pooled import LOSS, PENALTIES, architecture
from fagan_hf.architectures.presets import preset
Ours(preset("fagan-32"), LOSS, 1, regularization=PENALTIES).step()  # loads the libraries
ours = Ours({architecture}, LOSS, {batch}, regularization=PENALTIES)
"""


def architecture(size: int) -> Architecture:
    """Return flagship networks that get one more layer per doubling of the size, all else equal: always 1,024 keys."""
    maps = size.bit_length() - 2
    widths = (96,) * (maps - 2) + (48, 24)
    return flagship(image_size=size, latent_dim=64, generator=widths, discriminator=widths[:0:-1], keys=KEYS)


def measure_pooled(settings: Settings) -> Found:
    """Measure image sizes, the presets at 256x256, and what pooling saves there."""
    sizes = {size: batch for size, batch in SIZES.items() if not (settings.is_quick and size > 128)}
    found = [_measure_sizes(settings, sizes)]
    if not settings.is_quick:
        found += [_measure_presets(settings), _measure_layer(settings)]
    details = {"loss": LOSS, "penalties": "R1 and R2, exact, at every step"}
    return Found(
        [row for each in found for row in each.rows],
        {"pooled": details | {name: value for each in found for name, value in each.details.items()}},
    )


def _measure_sizes(settings: Settings, sizes: dict[int, int]) -> Found:
    seconds, megabytes, details = [], [], dict[str, Any]()
    for size, batch in sizes.items():
        ours = Ours(architecture(size), LOSS, batch, regularization=PENALTIES)
        rounds = max(1, settings.rounds * 32 // size)  # longer steps need fewer
        times = alternate({"step": ours.step}, rounds, device=settings.device)["step"]
        seconds.append(times.median / batch)
        megabytes.append(_memory(settings, f"architecture({size})", batch) / batch)
        details[f"{size}x{size}"] = {"batch": batch, "megabytes_per_image": round(megabytes[-1], 1), **times.to_json()}
    rows = [
        Row(
            f"an image's share of a flagship step, {size}x{size}", each, "s", f"{1 / each:,.2f} img/s; {memory:,.0f} MB"
        )
        for size, each, memory in zip(sizes, seconds, megabytes, strict=True)
    ]
    pixels = [size * size for size in sizes]
    for name, costs in (("time", seconds), ("memory", megabytes)):
        power = growth(pixels, costs)
        rows.append(Row(f"flagship step, {name}, power of pixels", power, ""))
        details[f"{name}_grows_with_this_power_of_pixels"] = round(power, 3)
    return Found(rows, {"sizes": details})


def _measure_presets(settings: Settings) -> Found:
    gigabytes = {name: _memory(settings, f"preset({name!r})", PRESET_BATCH) / 1e3 for name in PRESETS}
    rows = [
        Row(f"memory of a step, {name}, batch {PRESET_BATCH}", each, "GB", "with both penalties")
        for name, each in gigabytes.items()
    ]
    return Found(rows, {"preset_gigabytes": gigabytes})


def _measure_layer(settings: Settings) -> Found:
    """Time the last layer of `fagan-256`, forward and backward, with and without pooled keys."""
    feature_map = torch.randn(1, 16, LAYER_SIZE, LAYER_SIZE, device=settings.device, requires_grad=True)
    layers = {
        "pooled": FullAttention(16, 3, kernel_size=3, padding=1, key_pooling=KEY_POOLING),
        "not pooled": FullAttention(16, 3, kernel_size=3, padding=1),
    }

    def work(layer: FullAttention) -> Tensor:
        result = layer(feature_map)
        result.square().mean().backward()
        return result

    works = {name: partial(work, layer.to(settings.device)) for name, layer in layers.items()}
    times = alternate(works, max(1, settings.rounds // 4), device=settings.device)
    pooled, whole = (times[name].median for name in layers)
    row = Row("pooled keys to all keys, 256x256", whole / pooled, note=f"{pooled:.2f} s; {whole:.1f} s")
    return Found([row], {"layer_at_256": {name: each.to_json() for name, each in times.items()}})


def _memory(settings: Settings, made: str, batch: int) -> float:
    """Return the peak memory of a step [MB]."""
    prepared = _PREPARED.format(threads=settings.threads, architecture=made, batch=batch)
    return peak_megabytes(prepared, "ours.step()", settings.device)
