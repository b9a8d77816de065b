"""Evaluate every checkpoint and snapshot of a run: how good it was when, and which is the best."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fagan_hf.data.cache import Images
from fagan_hf.hub.checkpoints import saved_weights
from fagan_hf.hub.repository import EVALUATIONS, GENERATOR, write_json
from fagan_hf.metrics.evaluate import Metric, evaluate_each, rank
from fagan_hf.models import Generator

_COLUMNS = ("fd", "kid", "precision", "recall", "coverage", "copied")


@dataclass(frozen=True)
class Evaluations:
    """Metrics of the checkpoints of a run, all measured in the same way.

    Attributes:
        metrics: Metrics of each checkpoint, by images seen, in ascending order; at least one checkpoint.
        features: The feature extractor, in words.
        num_images: Number of images, and of real ones to compare with.
        dataset: Id of the dataset.
        split: Split of the dataset.
    """

    metrics: dict[int, Sequence[Metric]]
    features: str
    num_images: int
    dataset: str
    split: str | None

    @property
    def best(self) -> int:
        """Images seen of the best checkpoint: by Fréchet distance, or of few images kernel distance; see `rank`."""
        return min(self.metrics, key=lambda images: rank(self.metrics[images]))

    @property
    def best_by(self) -> Metric:
        """The metric by which the best one is the best."""
        return self.metrics[self.best][0]

    def table(self) -> str:
        """Format all results for a terminal, a line for each checkpoint."""
        best = self.best_by
        shown = [each for each in self.metrics[self.best] if each.kind in _COLUMNS]
        lines = [_line("images", [f"{each.kind} {each.arrow}" for each in shown])]
        for images, metrics in self.metrics.items():
            line = _line(f"{images:,}", [f"{each.value:.4g}" for each in metrics if each.kind in _COLUMNS])
            lines.append(f"{line}  best" if images == self.best else line)
        lines += [
            _line("real", ["-" if each.floor is None else f"{each.floor:.4g}" for each in shown]),
            "",
            f"Best: {self.best:,} images, {best.name} {best.value:.4g} ({best.type}).",
            f"{self.num_images:,} generated images of the same seeds against as many real ones.",
            f"Features: {self.features}.",
        ]
        return "\n".join(lines)

    def keep(self, folder: Path) -> Path:
        """Save all results as JSON in the run folder, atomically; return the file's path."""
        path = folder / EVALUATIONS
        metrics = self.metrics[self.best]
        write_json(
            path,
            {
                "best": self.best,
                "best_by": self.best_by.type,
                "features": self.features,
                "num_images": self.num_images,
                "dataset": self.dataset,
                "split": self.split,
                "real": {each.type: each.floor for each in metrics},
                "checkpoints": [
                    {"images": images, **{each.type: each.value for each in found}}
                    for images, found in self.metrics.items()
                ],
            },
        )
        return path


def _line(first: str, rest: Sequence[str]) -> str:
    return f"{first:>12}" + "".join(f"{each:>13}" for each in rest)


def evaluate_checkpoints(
    folder: Path,
    images: Images,
    *,
    device: Any = "cpu",
    features: Any = "effnetlite0",
    num_images: int | None = None,
    batch_size: int | None = None,
    cache_dir: Path | None = None,
    progress: bool = True,
) -> Evaluations:
    """Evaluate the averaged generator of every checkpoint and snapshot of a run, with the same seeds.

    Args:
        folder: The run folder.
        images: Real images, see `fagan_hf.metrics.evaluate.evaluate`.
        device: Device of the generators and of the feature extraction.
        features: See `fagan_hf.metrics.evaluate.evaluate`.
        num_images: See `fagan_hf.metrics.evaluate.evaluate`.
        batch_size: See `fagan_hf.metrics.evaluate.evaluate`.
        cache_dir: See `fagan_hf.metrics.evaluate.evaluate`.
        progress: Whether to show a progress bar.

    Raises:
        FileNotFoundError: The run has no checkpoint.
        ValueError: A checkpoint is corrupt, or the images do not fit, see `fagan_hf.metrics.evaluate.evaluate`.
        ImportError: The features need a package; says which.
        OSError: The features' weights can't be downloaded; suggests an alternative.
    """
    found = saved_weights(folder, GENERATOR)
    if not found:
        raise FileNotFoundError(
            f"{folder} has neither checkpoints nor snapshots to measure; a run keeps them while it trains, see "
            "snapshot_bytes"
        )
    loaded: list[int] = []

    def generators() -> Iterator[Generator]:
        for each in tqdm(found, desc="Checkpoints", disable=not progress):
            try:
                generator = Generator.from_pretrained(folder, checkpoint=each).to(device)
            except FileNotFoundError:  # removed meanwhile by the run, which is still training
                continue
            loaded.append(each)
            yield generator

    options = {"features": features, "num_images": num_images, "batch_size": batch_size, "cache_dir": cache_dir}
    metrics: dict[int, Sequence[Metric]] = {}
    description, count = "", 0
    for evaluation in evaluate_each(generators(), images, progress=False, **options):
        metrics[loaded[-1]] = evaluation.metrics()
        description, count = evaluation.features.description, evaluation.num_images
    data = images.description
    return Evaluations(metrics, description, count, data["dataset"], data.get("split"))
