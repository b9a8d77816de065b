"""Sampling: images per second, ours against the peer's, and the time to the first image."""

import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from benchmarks.loading_time import PROGRAMS, seconds_of
from benchmarks.peer import copy_weights, peer_layer, wake
from benchmarks.speed_of.equality import check_tolerances
from benchmarks.speed_of.settings import Settings, name_of
from benchmarks.speed_of.targets import Found, Row, rows_against_peer
from benchmarks.speed_of.timing import alternate
from fagan_hf.hub.repository import save_repository
from fagan_hf.models import Generator

BATCHES = (1, 16, 64)
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16}
FIRST_IMAGE_MODEL = "fagan-32"  # what `make train` trains


def measure_sample(settings: Settings, batches: tuple[int, ...] = BATCHES, model: str = "fagan-classic-64") -> Found:
    """Compare generators in inference, then time whole programs from start to end."""
    ours = Generator.from_preset(model).to(settings.device).eval()
    theirs = wake(nn.Sequential(*map(peer_layer, ours.config.layers))).to(settings.device).eval()
    folded, equality = fold_equal(ours, theirs)
    generators = {
        name_of(precision): copy.deepcopy(folded).to(DTYPES[precision]) for precision in settings.precisions()
    }
    rows: list[Row] = []
    details: dict[str, Any] = {"model": model, "equality_in_fp32": equality}
    for batch in batches:
        latents = torch.randn(batch, ours.config.latent_dim, 1, 1, device=settings.device)
        works: dict[str, Any] = {"peer": torch.no_grad()(lambda latents=latents: theirs(latents))}
        for name, generator in generators.items():
            draws = latents.to(next(generator.parameters()).dtype)
            works[name] = torch.inference_mode()(lambda generator=generator, draws=draws: generator(draws))
        times = alternate(works, settings.rounds * (1 if batch == max(batches) else 4), device=settings.device)
        medians = {side: each.median for side, each in times.items()}
        rows += rows_against_peer(
            f"sampling, batch {batch}", medians, lambda each, batch=batch: f"{batch / each:,.1f} img/s"
        )
        details[f"batch {batch}"] = {side: each.to_json() for side, each in times.items()}
    first = _first_image(settings)
    return Found(rows + first.rows, details | first.details)


def fold_equal(ours: Generator, theirs: nn.Module) -> tuple[Generator, dict[str, float]]:
    """Copy the peer's weights to our generator, fold it, and compare images.

    The peer updates its singular vectors in eval mode too, before using them, so ours are copied after its call.

    Returns:
        Our generator for inference, and the largest difference of the images, which are in [-1, 1].

    Raises:
        RuntimeError: The difference exceeds its tolerance.
    """
    device = next(ours.parameters()).device
    latents = torch.randn(8, ours.config.latent_dim, 1, 1, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        expected = theirs(latents)
        copy_weights(theirs, ours)
        folded = ours.fold().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        difference = (folded(latents) - expected).abs().max().item()
    found = {"output_difference": difference}
    check_tolerances(found)
    return folded, found


def _first_image(settings: Settings) -> Found:
    """Run the programs of `benchmarks/loading_time.py` with an untrained model."""
    with TemporaryDirectory() as folder:
        save_repository(Path(folder), Generator.from_preset(FIRST_IMAGE_MODEL))
        programs = {"import fagan_hf": "import fagan_hf"}
        programs |= {name: program.format(model=folder) for name, program in PROGRAMS.items()}
        times = alternate(
            {name: lambda program=program: seconds_of(program) for name, program in programs.items()}, settings.rounds
        )
    generate, base = times["fagan-hf generate, one image"].median, times["import torch"].median
    rows = [
        Row("import fagan_hf", times["import fagan_hf"].median, "s", "from the start of Python to its end"),
        Row("fagan-hf generate, to import torch", generate / base, note=f"{generate:.2f} s and {base:.2f} s"),
    ]
    seconds = {name: each.to_json() for name, each in times.items()}
    return Found(rows, {"start to first image": {"model": FIRST_IMAGE_MODEL, "times": seconds}})
