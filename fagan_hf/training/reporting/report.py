"""A run's reports: metrics, sample grids, plots, and the training GIF."""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from fagan_hf.hub.repository import AUGMENTATION, GATES, HISTORY, LOSSES, PROGRESS, SAMPLES
from fagan_hf.training.recipe import Recipe
from fagan_hf.utils.files import replacing, sync_open_file
from fagan_hf.viz.plots import plot_gates, plot_lines, read_metrics

GIF_FRAME_MILLISECONDS = 120
GIF_LAST_FRAME_MILLISECONDS = 3000


class Report:
    """Writes a run's folder: ``metrics.jsonl``, ``samples/``, ``samples.png``, and plots.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.metrics_path = folder / HISTORY
        self.samples_folder = folder / "samples"

    def rewind(self, images_seen: int, lines: int | None = None) -> list[dict[str, Any]]:
        """Drop everything written after a checkpoint, because it will be written again.

        Args:
            images_seen: Images seen at the checkpoint.
            lines: Number of lines at the checkpoint; if unknown, all lines up to `images_seen` are kept.

        Returns:
            The dropped lines.
        """
        written = self.lines()
        kept = [line for line in written if line["images"] <= images_seen] if lines is None else written[:lines]
        with replacing(self.metrics_path) as path:
            path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        for path in self.samples_folder.glob("images-*.png"):
            if _images_of(path) > images_seen:
                path.unlink()
        return written[len(kept) :]

    def lines(self) -> list[dict[str, float]]:
        """Read ``metrics.jsonl``; a last line that was cut off by a crash is left out."""
        return read_metrics(self.metrics_path)

    def add_line(self, numbers: Mapping[str, Any]) -> None:
        """Append a line to ``metrics.jsonl``, whole or not at all.

        Raises:
            OSError: It can't be written, for example because the disk is full.
        """
        with self.metrics_path.open("ab", buffering=0) as file:
            end = file.tell()
            try:
                line = json.dumps(numbers).encode() + b"\n"
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.metrics_path))
                sync_open_file(file.fileno())  # checkpoints, which are synced too, rely on it
            except OSError:
                file.truncate(end)
                raise

    def add_samples(self, images_seen: int, grid: Image.Image) -> None:
        """Save a grid of samples, both under its own name and as the newest one.

        Args:
            images_seen: Images seen, used as the file name.
            grid: The samples as one image.
        """
        with replacing(self.samples_folder / f"images-{images_seen:08d}.png", make_folder=True) as path:
            grid.save(path, format="PNG")
        self.show_samples(grid)

    def show_samples(self, grid: Image.Image) -> None:
        """Save a grid of samples as the newest one only."""
        with replacing(self.folder / SAMPLES) as path:
            grid.save(path, format="PNG")

    def draw_plots(self) -> None:
        """Draw ``loss.png``, ``alpha.png`` and, with adaptive augmentation, ``augment.png`` from ``metrics.jsonl``."""
        lines = self.lines()
        if not lines:
            return
        losses = [name for name in ("generator_loss", "discriminator_loss") if name in lines[-1]]
        plot_lines(self.folder / LOSSES, lines, losses, "loss", lambda name: name.removesuffix("_loss"))
        plot_gates(self.folder / GATES, lines)
        adaptive = ["augment_probability", "overfitting"]
        if any(adaptive[0] in line for line in lines):
            label = "probability and mean sign"
            plot_lines(self.folder / AUGMENTATION, lines, adaptive, label, lambda name: name.replace("_", " "))

    def make_gif(self, frames: int) -> Path | None:
        """Write ``training_progress.gif`` from at most ``frames`` of the grids, spread evenly over the run.

        Returns:
            Its path; ``None`` if there are no grids.
        """
        grids = sorted(self.samples_folder.glob("images-*.png"), key=_images_of)
        if not grids:
            return None
        last = len(grids) - 1
        chosen = sorted({round(index * last / max(frames - 1, 1)) for index in range(frames)} | {last})
        pictures = [Image.open(grids[index]).convert("RGB") for index in chosen]
        durations = [GIF_FRAME_MILLISECONDS] * (len(pictures) - 1) + [GIF_LAST_FRAME_MILLISECONDS]
        path = self.folder / PROGRESS
        with replacing(path) as aside:
            pictures[0].save(aside, format="GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
        return path


def _images_of(grid: Path) -> int:
    """Parse the number of images seen from a grid's file name."""
    return int(grid.stem.removeprefix("images-"))


def summary(recipe: Recipe, images_seen: int, seconds: float) -> str:
    """Return a summary of a finished run's outputs, and how to use them."""
    folder = recipe.run_dir
    is_own_code = recipe.model.endswith(".py")
    note = f"  (import {recipe.model} first, if it registers layers)" if is_own_code else ""
    flag = f" --import {recipe.model}" if is_own_code else ""
    return f"""
{images_seen:,} images in {seconds / 60:.1f} minutes.
  samples    {folder / "samples.png"}
  plots      {folder / "loss.png"}, {folder / "alpha.png"}
  progress   {folder / "training_progress.gif"}
  model      {folder}

Generate images:{note}

  from fagan_hf import FAGANPipeline
  images = FAGANPipeline.from_pretrained("{folder}")(num_images=16).images

or: fagan-hf generate --model {folder}{flag} --seeds 0-15 --out grid.png"""
