"""Evaluate a generator: distances of its images to real ones, diversity, and memorization.

Real and generated images are treated alike: 8 bits per channel at the model's resolution, as in a PNG, with no lossy
step in between. Each metric's name contains the features and the number of images, because the latter biases a Fréchet
distance: only values of the same name, on the same data, are comparable.

Example:
    images = prepare_images(ImageSource("avatars", resolution=64))
    print(evaluate(Generator.from_pretrained("runs/avatars-64"), images).table())
"""

import math
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from fagan_hf.data.cache import Images
from fagan_hf.hub.measurements import Measurement, add_measurement
from fagan_hf.hub.repository import FACTS, NEIGHBORS, read_json, weights_hash
from fagan_hf.metrics.distances import (
    KernelDistance,
    Neighborhoods,
    frechet_distance,
    kernel_distance,
    nearest,
    neighborhoods,
)
from fagan_hf.metrics.features import FeatureExtractor, build_features
from fagan_hf.metrics.references import MAX_IMAGES, RealFeatures, real_features
from fagan_hf.models import Generator
from fagan_hf.sampling.images import generate_images, latents_from_seeds, sample, to_uint8
from fagan_hf.utils.files import replacing
from fagan_hf.viz.colors import as_rgb, rgb_planes
from fagan_hf.viz.grids import enlarged, image_grid

MIN_IMAGES = 8  # fewer can't be compared
FIRST_SEED = 1_000_000  # far from the seeds that users look at
MANY_COPIES = 2.0  # times the share of near copies among real images
_NEAR = 0.01  # quantile of the real images' nearest-neighbor distances below which an image counts as a near copy
_PICTURED, _SIMILAR = 8, 3  # rows of the grid of nearest images, and real images in each half of a row
_SMALL = 64  # images up to this size are shown enlarged


@dataclass(frozen=True)
class Numbers:
    """Metrics of a set of images compared with real ones.

    Attributes:
        frechet: Fréchet distance; `None` if there are not more images than features.
        kernel: Kernel distance.
        neighborhoods: Precision, recall, density and coverage.
    """

    frechet: float | None
    kernel: KernelDistance
    neighborhoods: Neighborhoods

    @classmethod
    def of(cls, images: Tensor, real: Tensor) -> "Numbers":
        """Compare the features of two sets."""
        frechet = frechet_distance(real, images) if min(len(real), len(images)) > real.shape[1] else None
        return cls(frechet, kernel_distance(real, images), neighborhoods(real, images))


@dataclass(frozen=True)
class Nearness:
    """How close images are to their nearest real one.

    Attributes:
        median: Median distance to the nearest real image, in feature space.
        copied: Fraction of images that are as close to a real one as the closest 1% of real images are to another.
    """

    median: float
    copied: float

    @classmethod
    def of(cls, distances: Float[Tensor, " images"], apart: Float[Tensor, " real"]) -> "Nearness":
        """Summarize distances to the nearest real image, relative to those between real images."""
        return cls(float(distances.median()), float((distances <= apart.quantile(_NEAR)).double().mean()))


@dataclass(frozen=True)
class _Floor:
    """Real images compared with other real ones.

    Attributes:
        numbers: Metrics of as many other real images; ``None`` if there are too few.
        apart: Distance of each to the nearest other one.
    """

    numbers: Numbers | None
    apart: Float[Tensor, " images"]


class Metric(NamedTuple):
    """One metric of an `Evaluation`.

    Attributes:
        type: Its name, including features and number of images: ``fd_effnetlite0_2048``.
        name: The metric in words.
        value: The value.
        floor: The value for real images; ``None`` if there are too few.
        error: Standard deviation over subsets of the images, if known.
        lower_is_better: ``None`` if neither direction is better.
    """

    type: str
    name: str
    value: float
    floor: float | None
    error: float | None = None
    lower_is_better: bool | None = False

    @property
    def kind(self) -> str:
        """What it measures, without features and number of images: ``fd``."""
        return self.type.partition("_")[0]

    @property
    def arrow(self) -> str:
        """The direction in which it is better, for tables."""
        return {None: "", True: "↓", False: "↑"}[self.lower_is_better]


def rank(metrics: Sequence[Metric | Measurement]) -> tuple[bool, float]:
    """Return a key that sorts models from best to worst: by distance, and those that copy after all others.

    A model copies if its share of near copies of real images is above `MANY_COPIES` times that of other real images.

    Args:
        metrics: All metrics of a model, the distance first.
    """
    copied = next((each for each in metrics if each.type.startswith("copied_")), None)
    is_copying = copied is not None and copied.floor is not None and copied.value > MANY_COPIES * copied.floor
    return is_copying, metrics[0].value


@dataclass(frozen=True)
class Comparison:
    """Images compared with real ones.

    Attributes:
        features: The feature extractor.
        num_images: Number of images, and of real ones to compare with.
        total: Real images in the dataset.
        compared_with: Number of real images that were searched for nearest neighbors.
        found: Metrics of the images.
        floor: Metrics of as many other real images; ``None`` if there are too few.
        nearness: Closeness of the images to the nearest of all real ones.
        real_nearness: Closeness of real images to the nearest other one.
    """

    features: FeatureExtractor
    num_images: int
    total: int
    compared_with: int
    found: Numbers
    floor: Numbers | None
    nearness: Nearness
    real_nearness: Nearness

    def metrics(self) -> list[Metric]:
        """Return all numbers, the Fréchet distance first if there is one."""
        found, floor = self.found, self.floor
        near, real = self.nearness, self.real_nearness

        def metric(kind: str, *rest: Any, **more: Any) -> Metric:
            return Metric(f"{kind}_{self.features.name}_{self.num_images}", *rest, **more)

        kernel, real_kernel = found.kernel, floor and floor.kernel.value
        shares = [
            metric(kind, name, getattr(found.neighborhoods, kind), floor and getattr(floor.neighborhoods, kind))
            for kind, name in _SHARES.items()
        ]
        frechet = (
            []
            if found.frechet is None
            else [metric("fd", "Fréchet distance", found.frechet, floor and floor.frechet, lower_is_better=True)]
        )
        return [
            *frechet,
            metric("kid", "Kernel distance", kernel.value, real_kernel, kernel.error, lower_is_better=True),
            *shares,
            metric(
                "nearest", "Median distance to the nearest real image", near.median, real.median, lower_is_better=None
            ),
            metric("copied", "Share of near copies of real images", near.copied, real.copied, lower_is_better=True),
        ]

    def table(self, subject: str = "given") -> str:
        """Format all results for a terminal.

        Args:
            subject: What the images are, in one word.
        """
        lines = [f"{'':<28}{subject:>14}{'real':>12}"]
        for each in self.metrics():
            value = f"{each.value:.4g}" + (f" ± {each.error:.2g}" if each.error is not None else "")
            real = "-" if each.floor is None else f"{each.floor:.4g}"
            lines.append(f"{each.type + ' ' + each.arrow:<28}{value:>14}{real:>12}")
        lines += [
            "",
            f"{self.num_images:,} {subject} images against as many of {self.total:,} real ones.",
            f"Nearest and copied: against {self.compared_with:,} of them. Column real: the same for other real images.",
            f"Features: {self.features.description}.",
            "A Fréchet distance of few images is biased upward: compare only metrics of the same name and data."
            if self.found.frechet is not None
            else f"No Fréchet distance: {self.num_images:,} images are not more than the features, so their covariance "
            "is not known.",
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class Evaluation(Comparison):
    """The result of evaluating a generator.

    Attributes:
        images_per_second: Generation speed, without feature extraction.
        closest: Seeds of the generated images closest to a real one, in ascending order of distance.
        neighbors: Data of `nearest_picture`.
    """

    images_per_second: float
    closest: Sequence[int]
    neighbors: "_Neighbors" = field(repr=False)

    def table(self, subject: str = "generated") -> str:
        """Format all results for a terminal."""
        return f"{super().table(subject)}\n{self.images_per_second:,.1f} images a second."

    def measurements(self, generator: str) -> list[Measurement]:
        """Return the entries of ``metrics.json``, which the card shows.

        Args:
            generator: SHA-256 of the generator's weights.
        """
        data, count = self.neighbors.images.description, self.num_images
        split = data.get("split")
        reference = f"{count:,} of {self.total:,} real images"
        if self.floor is not None:
            reference += f"; real against real: {count:,} others of them against these"
        all_of_them = f"all {self.total:,} real images"
        if self.compared_with < self.total:
            all_of_them = f"{self.compared_with:,} of {self.total:,} real images"
        all_of_them += "; real against real: each of those before against all others"
        command = f"fagan-hf evaluate MODEL --dataset {data['dataset']}{f' --split {split}' if split else ''}"
        command += f"{_flags(data.get('options', {}))} --num_images {count} --features {self.features.name}"
        return [
            Measurement(
                type=each.type,
                name=each.name,
                value=_rounded(each.value),
                floor=None if each.floor is None else _rounded(each.floor),
                error=None if each.error is None else _rounded(each.error),
                features=self.features.description,
                num_images=count,
                reference=all_of_them if each.type.startswith(("nearest_", "copied_")) else reference,
                generator=generator,
                dataset=data["dataset"],
                split=split,
                lower_is_better=each.lower_is_better,
                command=command,
            )
            for each in self.metrics()
        ]

    def keep(self, folder: Path) -> None:
        """Save metrics and `nearest_picture` in the folder of the evaluated model, for its card.

        The picture shows memorization, so it is made only for the data that the model was trained on.

        Raises:
            ValueError: The folder has no generator, or its ``metrics.json`` is invalid.
        """
        weights = weights_hash(folder)
        if weights is None:
            raise ValueError(f"{folder} has no generator that these metrics could belong to")
        for each in self.measurements(weights):
            add_measurement(folder, each)
        learned_from, data = read_json(folder / FACTS).get("data"), self.neighbors.images.description
        if learned_from is not None and any(learned_from.get(key) != data.get(key) for key in ("dataset", "split")):
            return
        with replacing(folder / NEIGHBORS) as path:
            self.nearest_picture().save(path, format="PNG")

    def nearest_picture(self) -> Image.Image:
        """Draw generated images, each next to its nearest real ones.

        The left half shows the generated images that are closest to a real one; the right half shows the first ones. If
        the generator has memorized its data, rows on the left show the same image twice.
        """
        return self.neighbors.picture()


_NAMES = {"revision": "dataset_revision"}  # the command's --revision is the model's
_SHARES = {"precision": "Precision", "recall": "Recall", "density": "Density", "coverage": "Coverage"}


def _flags(options: Mapping[str, Any]) -> str:
    """Format the options of a dataset as command-line flags."""
    text = ""
    for name, value in options.items():
        words = value if isinstance(value, list) else [] if value is True else [value]
        text += f" {shlex.join([f'--{_NAMES.get(name, name)}', *map(str, words)])}"
    return text


def _rounded(value: float) -> float:
    """Round to four digits, more than any of these metrics is accurate to."""
    return float(f"{value:.4g}")


@dataclass(frozen=True)
class _Neighbors:
    """Some seeds, those of the left half first, with the nearest real images of each."""

    generator: Generator
    images: Images
    seeds: Sequence[int]
    rows: Int[np.ndarray, "seeds similar"]
    labels: Tensor | None  # of each seed

    def picture(self) -> Image.Image:
        latents = latents_from_seeds(self.seeds, self.generator.config.latent_dim)
        generated = generate_images(self.generator, latents, self.labels, progress=False)
        real = self.images.array[self.rows].transpose(0, 1, 3, 4, 2)
        groups = np.concatenate(
            [as_rgb(generated)[:, None], as_rgb(real)], axis=1
        )  # a generated image and its neighbors
        left, right = np.split(groups, 2)
        tiles = np.stack([left, right], axis=1).reshape(-1, *groups.shape[2:])
        scale = 2 if self.images.image_shape[1] <= _SMALL else 1
        return image_grid(enlarged(tiles, scale), columns=2 * groups.shape[1])


def check_counts(num_images: int, images: Images, extractor: FeatureExtractor) -> None:
    """Check early that there are enough images.

    Args:
        num_images: Number of images to generate, and to compare with as many real ones.
        images: The real images, of which one is passed through the extractor.
        extractor: The feature extractor.

    Raises:
        ValueError: There are too few real images.
    """
    if num_images < 1:
        raise ValueError(f"num_images is {num_images}; it must be at least 1, usually {extractor.num_images:,}")
    total, most = len(images), min(len(images), MAX_IMAGES)
    if num_images > most:
        there_are = f"there are {total:,}" if most == total else f"of {total:,} at most {most:,} are used as"
        raise ValueError(
            f"num_images is {num_images:,}, but {there_are} real images to compare with; use {most:,} at most"
        )
    if num_images < MIN_IMAGES:
        raise ValueError(f"num_images is {num_images}; at least {MIN_IMAGES} are needed to compare images")
    extractor(rgb_planes(images.array[:1]))


def default_count(total: int, usual: int) -> int:
    """Return how many images to compare: the usual number, or half of fewer images, so that the others are a floor."""
    return usual if total >= usual else max(min(total, MIN_IMAGES), total // 2)


def labels_of(images: Images, rows: Int[np.ndarray, " rows"]) -> Float[Tensor, "rows labels"] | None:
    """Return the labels of some real images, if they have any; generated images get the same ones."""
    return torch.from_numpy(images.labels[rows]) if images.label_names else None


@torch.inference_mode()
def generated_features(
    generator: Generator,
    extractor: FeatureExtractor,
    seeds: Sequence[int],
    labels: Tensor | None = None,
    *,
    batch_size: int | None = None,
    progress: bool = True,
) -> tuple[Float[Tensor, "seeds features"], float]:
    """Generate images and extract their features.

    Returns:
        The features, and the time of generation [s].

    Raises:
        ValueError: A pixel is not finite.
    """
    latents = latents_from_seeds(seeds, generator.config.latent_dim)
    rows: list[Tensor] = []
    seconds, started = 0.0, time.perf_counter()
    for batch in sample(generator, latents, labels, batch_size=batch_size, progress=progress):
        if not batch.isfinite().all():
            raise ValueError("the generator outputs pixels that are not finite: it has diverged and can't be evaluated")
        pixels = as_rgb(to_uint8(batch)).transpose(0, 3, 1, 2)
        seconds += time.perf_counter() - started
        rows.append(extractor(pixels, device=generator.device))
        started = time.perf_counter()
    return torch.cat(rows), seconds


def compare(
    generator: Generator,
    images: Images,
    extractor: FeatureExtractor,
    fake: Float[Tensor, "seeds features"],
    seconds: float,
    real: RealFeatures,
) -> Evaluation:
    """Compare generated images, of seeds from `FIRST_SEED` on, with real images.

    Args:
        generator: The generator.
        images: The real images.
        extractor: The feature extractor.
        fake: Features of the generated images.
        seconds: Time of their generation.
        real: Features of the real images.
    """
    compared, distances = _compare_features(extractor, fake, real)
    closest = distances.argsort()[:_PICTURED]
    pictured = torch.cat([closest, torch.arange(len(closest))])
    similar = torch.cdist(fake[pictured].double(), real.features.double())
    similar = similar.topk(min(_SIMILAR, len(real.features)), dim=1, largest=False).indices
    return Evaluation(
        **vars(compared),
        images_per_second=len(fake) / seconds if seconds else math.nan,
        closest=[FIRST_SEED + int(index) for index in closest],
        neighbors=_Neighbors(
            generator,
            images,
            [FIRST_SEED + int(index) for index in pictured],
            real.rows[similar.numpy()],
            labels_of(images, real.rows[pictured.numpy()]),
        ),
    )


def compare_images(
    others: Images,
    images: Images,
    *,
    features: Any = "effnetlite0",
    num_images: int | None = None,
    cache_dir: Path | None = None,
    progress: bool = True,
) -> Comparison:
    """Compare two sets of images, such as those of another program with real ones.

    Args:
        others: The images to judge.
        images: Real images of the same size.
        features: See `evaluate`.
        num_images: Number of images of each set; by default as for `evaluate`, but not more than there are.
        cache_dir: See `evaluate`.
        progress: Whether to show progress bars.

    Raises:
        ValueError: The sizes differ, or there are too few images.
        ImportError: The features need a package; says which.
    """
    if others.image_shape[1:] != images.image_shape[1:]:
        raise ValueError(f"the images are {others.image_shape[1]} pixels wide, the real ones {images.image_shape[1]}")
    extractor = build_features(features)
    if num_images is None:
        num_images = min(default_count(len(images), extractor.num_images), len(others))
    for each in (images, others):
        check_counts(num_images, each, extractor)
    real, given = (real_features(each, extractor, cache_dir=cache_dir, progress=progress) for each in (images, others))
    return _compare_features(extractor, given.features[:num_images], real)[0]


def _compare_features(
    extractor: FeatureExtractor, given: Float[Tensor, "images features"], real: RealFeatures
) -> tuple[Comparison, Float[Tensor, " images"]]:
    """Compare features with as many real ones; return also the distance of each to the nearest real one."""
    count, floor = len(given), _floor(real, len(given))
    distances, _ = nearest(given, real.features)
    comparison = Comparison(
        features=extractor,
        num_images=count,
        total=real.total,
        compared_with=len(real.features),
        found=Numbers.of(given, real.features[:count]),
        floor=floor.numbers,
        nearness=Nearness.of(distances, floor.apart),
        real_nearness=Nearness.of(floor.apart, floor.apart),
    )
    return comparison, distances


def _floor(real: RealFeatures, count: int) -> _Floor:
    """Compare real images with other real ones, once per dataset."""
    if count not in real.floors:
        first, others = real.features[:count], real.features[count : 2 * count]
        numbers = Numbers.of(others, first) if len(others) == count else None
        real.floors[count] = _Floor(numbers, nearest(first, real.features, are_among=True)[0])
    return real.floors[count]


def evaluate(
    generator: Generator,
    images: Images,
    *,
    features: Any = "effnetlite0",
    num_images: int | None = None,
    batch_size: int | None = None,
    cache_dir: Path | None = None,
    progress: bool = True,
) -> Evaluation:
    """Evaluate a generator against real images.

    Args:
        generator: On any device; features are extracted there too.
        images: Real images of the generator's resolution, from `fagan_hf.data.prepare.prepare_images`.
        features: A key of `fagan_hf.metrics.features.FEATURES`, or a `FeatureExtractor` around any module.
        num_images: Number of generated images, compared with as many real ones; by default the usual number for the
            features, 2,048, for Inception 50,000; of fewer images half, so that the others show what real ones reach.
            With no more images than features there is no Fréchet distance.
        batch_size: Images generated per batch; by default as many as memory allows.
        cache_dir: Cache of the real images' features; default ``$FAGAN_CACHE``, else ``~/.cache/fagan_hf``.
        progress: Whether to show progress bars.

    Raises:
        ValueError: There are fewer real images than ``num_images``, fewer than `MIN_IMAGES`, real images of another
            size or without the generator's labels, or pixels that are not finite.
        ImportError: The features need a package; says which.
        OSError: The features' weights can't be downloaded; suggests an alternative.
    """
    options = {"features": features, "num_images": num_images, "batch_size": batch_size, "cache_dir": cache_dir}
    return next(evaluate_each([generator], images, progress=progress, **options))


def evaluate_each(
    generators: Iterable[Generator],
    images: Images,
    *,
    features: Any = "effnetlite0",
    num_images: int | None = None,
    batch_size: int | None = None,
    cache_dir: Path | None = None,
    progress: bool = True,
) -> Iterator[Evaluation]:
    """Evaluate several generators one by one, with the same seeds, against real images that are looked at once.

    Args:
        generators: Each is requested when the one before it is done.
        images: See `evaluate`, as for the other arguments and errors.
        features: See `evaluate`.
        num_images: See `evaluate`.
        batch_size: See `evaluate`.
        cache_dir: See `evaluate`.
        progress: See `evaluate`.

    Yields:
        The result of each.
    """
    extractor = build_features(features)
    count = default_count(len(images), extractor.num_images) if num_images is None else num_images
    seeds, real = range(FIRST_SEED, FIRST_SEED + count), None
    for generator in generators:
        check_match(generator, images)
        if real is None:
            check_counts(count, images, extractor)
            real = real_features(images, extractor, device=generator.device, cache_dir=cache_dir, progress=progress)
        labels = labels_of(images, real.rows[:count])
        fake, seconds = generated_features(
            generator, extractor, seeds, labels, batch_size=batch_size, progress=progress
        )
        yield compare(generator, images, extractor, fake, seconds, real)


def check_match(generator: Generator, images: Images) -> None:
    """Check that real images match the generator.

    Raises:
        ValueError: They have another size or other labels; says which.
    """
    size = generator.config.image_size
    if images.image_shape[1:] != (size, size):
        raise ValueError(f"the real images are {images.image_shape[1]} pixels wide, the generator's {size}")
    names = tuple(generator.config.label_names)
    if names and tuple(images.label_names) != names:
        raise ValueError(
            f"the generator has the labels {', '.join(names)}, the real images "
            f"{', '.join(images.label_names) or 'none'}; use the label columns that it was trained with: "
            "--label_columns"
        )
