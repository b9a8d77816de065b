"""Throughput of the data loader against that of a training step, and speed of data preparation."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.speed_of.our_step import Ours
from benchmarks.speed_of.settings import Settings
from benchmarks.speed_of.targets import Found, Row
from benchmarks.speed_of.timing import Times, alternate
from fagan_hf.architectures.presets import preset
from fagan_hf.data.cache import Chunk, Images, write_pixels, write_view
from fagan_hf.data.digests import numbered_digests
from fagan_hf.data.image_source import ImageSource
from fagan_hf.data.prepare import prepare_images
from fagan_hf.training.recipe import Recipe
from fagan_hf.training.step.batches import Batches

BATCH = 32
MODELS = ("fagan-classic-64", "fagan-plain-32")
BATCHES_AT_A_TIME = 50  # a single one is too short to time reliably
CACHED_IMAGES = 8192
PHOTOGRAPH = (178, 218)  # CelebA's size


def measure_data(settings: Settings) -> Found:
    """Measure the loader and the step that it feeds, then the speed of building caches."""
    rows: list[Row] = []
    details: dict[str, Any] = {}
    for model in MODELS:
        with TemporaryDirectory() as folder:
            times = _loader_and_step(model, Path(folder), settings)
        loaded = BATCH * BATCHES_AT_A_TIME / times["loader"].median
        needed = BATCH / times["step"].median
        note = f"{loaded:,.0f} img/s loaded, {needed:,.1f} img/s trained on, with the hinge loss"
        rows.append(Row(f"loader to step, {model}", loaded / needed, note=note))
        details[model] = {
            "batch": BATCH,
            "loaded_images_per_second": round(loaded),
            "needed_images_per_second": round(needed, 2),
            "times": {name: each.to_json() for name, each in times.items()},
        }
    for name, rate in build_rates(1024 if settings.is_quick else 8192).items():
        rows.append(Row(f"cache, {name}", rate, "img/s", "one process per core"))
        details[f"cache, {name}"] = {"images_per_second": round(rate, 1)}
    return Found(rows, details)


def _loader_and_step(model: str, folder: Path, settings: Settings) -> dict[str, Times]:
    ours = Ours(preset(model), "hinge", BATCH)
    images = random_images(folder / "cache", CACHED_IMAGES, resolution=ours.real.shape[-1])
    recipe = Recipe(name="loader", model=model, loss="hinge", batch_size=BATCH)
    batches = Batches(images, recipe, ours.latent_dim, ours.device)

    def load() -> None:
        for index in range(BATCHES_AT_A_TIME):
            batches.make(index * BATCH)

    return alternate({"loader": load, "step": ours.step}, settings.rounds, device=settings.device)


def random_images(folder: Path, count: int, resolution: int) -> Images:
    """Write a cache of noise."""
    random = np.random.default_rng(0)
    shape = (3, resolution, resolution)
    chunks = (
        Chunk(random.integers(0, 256, (1, *shape), dtype=np.uint8), numbered_digests("noise", [number]))
        for number in range(count)
    )
    write_pixels(folder, chunks, count=count, shape=shape, decoding="noise")
    return write_view(folder, labels=np.zeros((count, 0), np.float32), label_names=[], description={"dataset": "noise"})


def build_rates(photographs: int) -> dict[str, float]:
    """Prepare photographs and avatars as training does, once each; return images per second."""
    rates = {}
    with TemporaryDirectory() as folder:
        write_photographs(Path(folder, "photographs"), photographs)
        sources = {
            "photographs, 178x218 to 64x64": ImageSource(str(Path(folder, "photographs")), 64),
            "avatars, drawn at 32x32": ImageSource("avatars", 32, split="test"),  # the smaller split
        }
        for name, source in sources.items():
            started = time.perf_counter()
            images = prepare_images(source, cache_dir=Path(folder, "cache"), progress=False)
            rates[name] = len(images) / (time.perf_counter() - started)
    return rates


def write_photographs(folder: Path, count: int) -> None:
    """Write smooth, slightly noisy JPEGs: pure noise would take longer to decode than photographs."""
    folder.mkdir()
    random = np.random.default_rng(0)
    width, height = PHOTOGRAPH
    for index in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (9, 7, 3), dtype=np.uint8)).resize((width, height))
        noise = random.integers(-8, 9, (height, width, 3))
        pixels = (np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:05d}.jpg", quality=90)
