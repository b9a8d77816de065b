"""Evaluate the averaged generator during training, and keep the best one."""

from pathlib import Path
from typing import Any

from fagan_hf.data.cache import Images
from fagan_hf.hub.card import write_card
from fagan_hf.hub.measurements import read_measurements
from fagan_hf.hub.repository import BEST, CARD, METRICS, save_repository, weights_hash, write_text
from fagan_hf.metrics.evaluate import (
    FIRST_SEED,
    Evaluation,
    check_counts,
    compare,
    default_count,
    generated_features,
    labels_of,
    rank,
)
from fagan_hf.metrics.features import build_features
from fagan_hf.metrics.references import RealFeatures, chosen_rows, real_features
from fagan_hf.models import Discriminator, Generator
from fagan_hf.training.distributed.processes import Processes


class Evaluator:
    """Generates images and extracts features in all processes, a share in each; the main process compares them.

    Args:
        images: Images of the run.
        features: Name of the feature extractor.
        num_images: Number of generated images, compared with as many real ones; of fewer real images half.
        processes: Processes of the run.

    Raises:
        ValueError: There are too few images, or the feature extractor is unknown.
        ImportError: The feature extractor needs a package.
        OSError: Its weights can't be downloaded.
    """

    def __init__(self, images: Images, features: str, num_images: int, processes: Processes):
        num_images = default_count(len(images), num_images)
        self.images, self.num_images, self.processes = images, num_images, processes
        self.extractor = build_features(features)
        check_counts(num_images, images, self.extractor)
        rows = chosen_rows(len(images))
        self._real: RealFeatures | None = None  # in the main process only
        # All processes generate the same number, so that features can be gathered; surplus images are dropped.
        share = -(-num_images // processes.count)
        mine = range(processes.index * share, (processes.index + 1) * share)
        self._seeds = [FIRST_SEED + index for index in mine]
        self._labels = labels_of(images, rows[[index % num_images for index in mine]])

    def measure(self, generator: Generator) -> Evaluation | None:
        """Evaluate a generator that is the same in all processes; the main process gets the result."""
        processes = self.processes
        with processes.uneven_work():
            features, seconds = generated_features(generator, self.extractor, self._seeds, self._labels, progress=False)
        features = processes.gather(features.to(processes.device))[: self.num_images].cpu()

        def compared() -> Evaluation:
            if self._real is None:
                self._real = real_features(self.images, self.extractor, device=processes.device)
            return compare(generator, self.images, self.extractor, features, processes.count * seconds, self._real)

        return processes.run_on_main(compared)


def numbers_of(evaluation: Evaluation) -> dict[str, float]:
    """Return the metrics by their names in ``metrics.jsonl``."""
    return {each.type: each.value for each in evaluation.metrics()}


def keep_if_best(
    run_dir: Path, evaluation: Evaluation, generator: Generator, discriminator: Discriminator, facts: dict[str, Any]
) -> None:
    """Save a model that is better than the one in `BEST`, with its metrics and card; see `rank`."""
    folder = run_dir / BEST
    if not _is_better(evaluation, folder):
        return
    (folder / METRICS).unlink(missing_ok=True)  # of the previous model, perhaps damaged
    save_repository(folder, generator, discriminator, facts)
    evaluation.keep(folder)
    write_text(folder / CARD, write_card(folder))


def _is_better(evaluation: Evaluation, folder: Path) -> bool:
    """Compare with the model in a folder; one that is damaged, or was measured differently, is ignored.

    The folder decides, not the run's state: the run may have been rolled back, or resumed in another folder.
    """
    try:
        weights, known = weights_hash(folder), read_measurements(folder)
    except ValueError:
        return True
    now = evaluation.measurements("")  # first the Fréchet distance, or with few images the kernel distance
    likewise = {(each.subject, each.reference) for each in now}
    before = [each for each in known if each.generator == weights and (each.subject, each.reference) in likewise]
    return not before or before[0].type != now[0].type or rank(now) < rank(before)
