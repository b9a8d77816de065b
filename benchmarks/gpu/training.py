"""Training on a GPU in pieces, with `fagan_hf.train`, that move between machines as small files."""

import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import fagan_hf
from benchmarks.gpu.carried import archive_of
from benchmarks.gpu.parts import has_parts, join, split
from fagan_hf.hub.repository import (
    ARCHITECTURE,
    CHECKPOINTS,
    GENERATOR,
    HISTORY,
    RECIPE,
    SAMPLES,
    STATE,
    checkpoints_in,
)

STATE_PARTS, GENERATOR_PARTS = "state", "generator"
_FINISHING_MINUTES = 0.75  # plots, statistics, checkpoint and parts at the end of a piece
_SHORTEST_MINUTES = 0.25


@dataclass(frozen=True)
class Run:
    """A training run.

    Attributes:
        model: Name of a preset; also that of the run.
        resolution: Of its images [pixels].
        recipe: The recipe that it starts from.
        fields: What differs from the recipe.
        piece_images: Images of a piece; ``None`` for as many as there is time for.
    """

    model: str
    resolution: int
    recipe: str
    fields: dict[str, Any] = field(default_factory=dict)
    piece_images: int | None = None


RUNS = (
    Run("fagan-64", 64, "avatars-64-gpu", {"max_images": 2_000_000}),
    Run(
        "fagan-128",
        128,
        "avatars-64-gpu",
        {"batch_size": 32, "r1_gamma": 8.0, "r2_gamma": 8.0, "max_images": 1_000_000},  # as in folder-128
    ),
)
SMALL_RUNS = (
    Run(
        "fagan-32",
        32,
        "avatars-32",
        {"batch_size": 4, "max_images": 16, "log_every_images": 4, "gif_frames": 2, "cpu_threads": 1},
        piece_images=8,
    ),
)


def train_piece(run: Run, carried: Path, out: Path, minutes: float) -> dict[str, Any]:
    """Train for a while, from where the last piece ended, here or on another machine.

    The run's newest state and its averaged generator are also written to ``parts-<model>``, as small files; a run whose
    folder is gone resumes from them.

    Args:
        run: What to train.
        carried: Folder with the images.
        out: Folder of the run, its parts and the newest samples.
        minutes: Time for the piece, including what follows training.

    Returns:
        Numbers of the piece; ``is_unfinished`` says whether there is more to train.
    """
    started = time.perf_counter()
    folder, parts = out / "runs" / run.model, out / f"parts-{run.model}"
    if not checkpoints_in(folder / CHECKPOINTS) and has_parts(parts, STATE_PARTS):
        join(parts, STATE_PARTS, folder)
    images, seconds = _progress(folder)
    fields = {
        "checkpoint_every_images": 65_536,
        "keep_checkpoints": 1,
        "snapshot_bytes": 0,
        "eval_every_images": 0,  # needs the weights of another network
        "weights_license": "cc-by-4.0",  # the avatars'
        **run.fields,
    }
    goal = fields["max_images"]
    if run.piece_images is not None:
        fields["max_images"] = min(goal, images + run.piece_images)
    is_cuda = torch.cuda.is_available()
    done = fagan_hf.train(
        run.recipe,
        **fields,
        name=run.model,
        model=run.model,
        dataset=str(archive_of(carried, run.resolution)),
        num_avatars=None,
        compile="cuda_graphs" if is_cuda else "no",
        max_minutes=seconds / 60 + max(minutes - _FINISHING_MINUTES, _SHORTEST_MINUTES),
        output_dir=str(folder.parent),
    )
    shutil.copyfile(folder / SAMPLES, out / f"{run.model}.png")
    newest = checkpoints_in(folder / CHECKPOINTS)[-1]
    of_a_run = [RECIPE, ARCHITECTURE, HISTORY, f"{CHECKPOINTS}/{newest.name}"]
    small_files = [*split(folder, of_a_run, parts, STATE_PARTS), *split(folder, [GENERATOR], parts, GENERATOR_PARTS)]
    line, now = done.metrics[-1], _progress(folder)
    return {
        "is_unfinished": now[0] < goal,
        "images": now[0],
        "images_of_this_piece": now[0] - images,
        "images_per_second": round((now[0] - images) / max(now[1] - seconds, 1e-9), 1),
        "peak_memory_mb": line["peak_memory_mb"],
        "seconds_of_this_piece": round(time.perf_counter() - started, 1),
        "samples": f"{run.model}.png",
        "parts": len(small_files),
        "line": line,
    }


def _progress(folder: Path) -> tuple[int, float]:
    """Return how many images the newest checkpoint of a run has seen, and its time [s]."""
    found = checkpoints_in(folder / CHECKPOINTS)
    if not found:
        return 0, 0.0
    state = json.loads((found[-1] / STATE).read_text(encoding="utf-8"))
    return state["images_seen"], state["seconds"]
