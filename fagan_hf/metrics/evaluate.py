"""How good a generator is: distances of its images to real ones, and whether it has variety or a memory only.

Real and generated images are treated alike: 8 bits a channel at the model's size, as a PNG holds them, and nothing that
loses anything in between. Each metric's name holds the features and the number of images, for a Fréchet distance is
biased by it: only numbers of the same name, on the same data, compare.

Example:
    images = prepare_images(ImageSource("avatars", resolution=64))
    print(evaluate(Generator.from_pretrained("runs/avatars-64"), images).table())
"""

import math
import shlex
import time
from collections.abc import Mapping, Sequence
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
    check_rank,
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
from fagan_hf.viz.grids import enlarged, image_grid

FIRST_SEED = 1_000_000  # far from the seeds that people look at
_NEAR = 0.01  # of real images: as near to another one as this share of them is nearness that needs an explanation
_PICTURED, _SIMILAR = 8, 3  # rows of the picture of nearest images, and real images in each half of a row
_SMALL = 64  # images up to this size are shown enlarged


@dataclass(frozen=True)
class Numbers:
    """What one set of images is like, measured against another, which is real."""

    frechet: float
    kernel: KernelDistance
    neighborhoods: Neighborhoods

    @classmethod
    def of(cls, images: Tensor, real: Tensor) -> "Numbers":
        """Compare the features of two sets."""
        return cls(frechet_distance(real, images), kernel_distance(real, images), neighborhoods(real, images))


@dataclass(frozen=True)
class Nearness:
    """How near images come to a real one.

    Attributes:
        median: Distance to the nearest real one, in features.
        copied: Share of images that are as near to a real one as the nearest hundredth of real images is to another.
    """

    median: float
    copied: float

    @classmethod
    def of(cls, distances: Float[Tensor, " images"], apart: Float[Tensor, " real"]) -> "Nearness":
        """Sum up distances to the nearest real image, next to those of real images to another one."""
        return cls(float(distances.median()), float((distances <= apart.quantile(_NEAR)).double().mean()))


@dataclass(frozen=True)
class _Floor:
    """Real images against other real ones.

    Attributes:
        numbers: Of as many others; ``None`` if there are too few.
        apart: Distance of each to the nearest other one.
    """

    numbers: Numbers | None
    apart: Float[Tensor, " images"]


class Metric(NamedTuple):
    """A number of an `Evaluation`.

    Attributes:
        type: Its name, which says features and number of images as well: ``fd_effnetlite0_2048``.
        name: The same in words.
        value: The number.
        floor: The same of real images; ``None`` if there are too few.
        error: Standard deviation over parts of the images, where it is known.
        lower_is_better: ``None``: neither more nor less of it is better.
    """

    type: str
    name: str
    value: float
    floor: float | None
    error: float | None = None
    lower_is_better: bool | None = False


@dataclass(frozen=True)
class Evaluation:
    """All that was measured of a generator.

    Attributes:
        features: What images were seen through.
        num_images: Generated images, and as many real ones to compare with.
        total: Real images in the data set.
        compared_with: Among so many real images the nearest were looked for.
        found: Of the generated images.
        floor: The same of as many other real images; ``None`` if there are too few.
        nearness: Of the generated images to the nearest of all real ones.
        real_nearness: Of real images to the nearest other one.
        images_per_second: That were drawn, without looking at them.
        closest: Seeds of the generated images that are nearest to a real one, the nearest first.
        neighbors: What `nearest_picture` is drawn from.
    """

    features: FeatureExtractor
    num_images: int
    total: int
    compared_with: int
    found: Numbers
    floor: Numbers | None
    nearness: Nearness
    real_nearness: Nearness
    images_per_second: float
    closest: Sequence[int]
    neighbors: "_Neighbors" = field(repr=False)

    def metrics(self) -> list[Metric]:
        """Give all numbers, the Fréchet distance first."""
        found, floor = self.found, self.floor
        near, real = self.nearness, self.real_nearness

        def metric(kind: str, *rest: Any, **more: Any) -> Metric:
            return Metric(f"{kind}_{self.features.name}_{self.num_images}", *rest, **more)

        kernel, real_kernel = found.kernel, floor and floor.kernel.value
        shares = [
            metric(kind, name, getattr(found.neighborhoods, kind), floor and getattr(floor.neighborhoods, kind))
            for kind, name in _SHARES.items()
        ]
        return [
            metric("fd", "Fréchet distance", found.frechet, floor and floor.frechet, lower_is_better=True),
            metric("kid", "Kernel distance", kernel.value, real_kernel, kernel.error, lower_is_better=True),
            *shares,
            metric(
                "nearest", "Median distance to the nearest real image", near.median, real.median, lower_is_better=None
            ),
            metric("copied", "Share of near copies of real images", near.copied, real.copied, lower_is_better=True),
        ]

    def table(self) -> str:
        """Write everything down for a terminal."""
        lines = [f"{'':<28}{'generated':>14}{'real':>12}"]
        for each in self.metrics():
            told = f"{each.value:.4g}" + (f" ± {each.error:.2g}" if each.error is not None else "")
            arrow = {None: "", True: "↓", False: "↑"}[each.lower_is_better]
            real = "-" if each.floor is None else f"{each.floor:.4g}"
            lines.append(f"{each.type + ' ' + arrow:<28}{told:>14}{real:>12}")
        lines += [
            "",
            f"{self.num_images:,} generated images against as many of {self.total:,} real ones.",
            f"Nearest and copied: against {self.compared_with:,} of them. Under real: other real ones instead.",
            f"Seen through {self.features.description}.",
            "A Fréchet distance of few images is too large: compare numbers of the same name only, on the same data.",
            f"{self.images_per_second:,.1f} images a second.",
        ]
        return "\n".join(lines)

    def measurements(self, generator: str) -> list[Measurement]:
        """Give what ``metrics.json`` and the card hold.

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
        """Write numbers and `nearest_picture` into the folder of the model that was measured: all that a card needs.

        The picture asks what was learned by heart, so it is drawn of the data only that the model has learned from.

        Raises:
            ValueError: The folder has no generator, or its ``metrics.json`` is broken.
        """
        weights = weights_hash(folder)
        if weights is None:
            raise ValueError(f"{folder} has no generator whose numbers these could be")
        for each in self.measurements(weights):
            add_measurement(folder, each)
        learned_from, data = read_json(folder / FACTS).get("data"), self.neighbors.images.description
        if learned_from is not None and any(learned_from.get(key) != data.get(key) for key in ("dataset", "split")):
            return
        with replacing(folder / NEIGHBORS) as path:
            self.nearest_picture().save(path, format="PNG")

    def nearest_picture(self) -> Image.Image:
        """Draw generated images, each beside the real ones that are nearest to it.

        The left half shows those that come nearest to a real one, of all that were measured; the right half the first.
        A generator that has learned by heart shows the same picture twice in a row on the left.
        """
        return self.neighbors.picture()


_NAMES = {"revision": "dataset_revision"}  # the command's --revision is the model's
_SHARES = {"precision": "Precision", "recall": "Recall", "density": "Density", "coverage": "Coverage"}


def _flags(options: Mapping[str, Any]) -> str:
    """Write what was asked of a data set as flags of the command."""
    text = ""
    for name, value in options.items():
        words = value if isinstance(value, list) else [] if value is True else [value]
        text += f" {shlex.join([f'--{_NAMES.get(name, name)}', *map(str, words)])}"
    return text


def _rounded(value: float) -> float:
    """Keep four digits, which is more than any of these numbers is sure of."""
    return float(f"{value:.4g}")


@dataclass(frozen=True)
class _Neighbors:
    """Some seeds, those of the left half first, and the nearest real images of each."""

    generator: Generator
    images: Images
    seeds: Sequence[int]
    rows: Int[np.ndarray, "seeds similar"]
    labels: Tensor | None  # of each seed

    def picture(self) -> Image.Image:
        latents = latents_from_seeds(self.seeds, self.generator.config.latent_dim)
        generated = generate_images(self.generator, latents, self.labels, progress=False)
        real = self.images.array[self.rows].transpose(0, 1, 3, 4, 2)
        groups = np.concatenate([generated[:, None], real], axis=1)  # a generated one, and its neighbors
        left, right = np.split(groups, 2)
        tiles = np.stack([left, right], axis=1).reshape(-1, *groups.shape[2:])
        scale = 2 if self.images.image_shape[1] <= _SMALL else 1
        return image_grid(enlarged(tiles, scale), columns=2 * groups.shape[1])


def check_counts(num_images: int, images: Images, extractor: FeatureExtractor) -> None:
    """See early that there are enough images.

    Args:
        num_images: That shall be drawn, and compared with as many real ones.
        images: The real ones, of which one is looked at.
        extractor: What they will be seen through.

    Raises:
        ValueError: There are fewer real images than shall be compared, or fewer shall be than there are features.
    """
    if num_images < 1:
        raise ValueError(f"num_images is {num_images}; it must be at least 1, usually {extractor.num_images:,}")
    total, most = len(images), min(len(images), MAX_IMAGES)
    if num_images > most:
        there_are = f"there are {total:,}" if most == total else f"of {total:,} no more than {most:,} are looked at as"
        raise ValueError(
            f"num_images is {num_images:,}, but {there_are} real images to compare with; take {most:,} at most"
        )
    check_rank(num_images, extractor(images.array[:1]).shape[1])


def labels_of(images: Images, rows: Int[np.ndarray, " rows"]) -> Float[Tensor, "rows labels"] | None:
    """Give the labels of some images, where they have any: generated ones get those of real ones."""
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
    """Draw seeds and look at them.

    Returns:
        Their features, and how long drawing took [s].

    Raises:
        ValueError: A pixel is not finite.
    """
    latents = latents_from_seeds(seeds, generator.config.latent_dim)
    rows: list[Tensor] = []
    seconds, started = 0.0, time.perf_counter()
    for batch in sample(generator, latents, labels, batch_size=batch_size, progress=progress):
        if not batch.isfinite().all():
            raise ValueError("the generator gives pixels that are not finite: it has diverged, and can't be measured")
        pixels = to_uint8(batch).transpose(0, 3, 1, 2)
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
    """Compare what was generated, seeds from `FIRST_SEED` on, with real images.

    Args:
        generator: That drew them.
        images: The real ones.
        extractor: What both were seen through.
        fake: Features of the generated images.
        seconds: How long drawing them took.
        real: Features of the real images.
    """
    count, floor = len(fake), _floor(real, len(fake))
    distances, _ = nearest(fake, real.features)
    closest = distances.argsort()[:_PICTURED]
    pictured = torch.cat([closest, torch.arange(len(closest))])
    similar = torch.cdist(fake[pictured].double(), real.features.double())
    similar = similar.topk(min(_SIMILAR, len(real.features)), dim=1, largest=False).indices
    return Evaluation(
        features=extractor,
        num_images=count,
        total=real.total,
        compared_with=len(real.features),
        found=Numbers.of(fake, real.features[:count]),
        floor=floor.numbers,
        nearness=Nearness.of(distances, floor.apart),
        real_nearness=Nearness.of(floor.apart, floor.apart),
        images_per_second=count / seconds if seconds else math.nan,
        closest=[FIRST_SEED + int(index) for index in closest],
        neighbors=_Neighbors(
            generator,
            images,
            [FIRST_SEED + int(index) for index in pictured],
            real.rows[similar.numpy()],
            labels_of(images, real.rows[pictured.numpy()]),
        ),
    )


def _floor(real: RealFeatures, count: int) -> _Floor:
    """Compare real images with other real ones, once for a data set."""
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
    """Measure a generator against real images.

    Args:
        generator: On any device; images are looked at there too.
        images: Real ones of the generator's size, as `fagan_hf.data.prepare.prepare_images` gives them.
        features: A name out of `fagan_hf.metrics.features.FEATURES`, or a `FeatureExtractor` around any module.
        num_images: How many are drawn, and compared with as many real ones; by default what is usual for the features:
            2,048, of Inception's 50,000.
        batch_size: Images drawn at a time; default as many as memory allows.
        cache_dir: Where features of real images are kept; default ``$FAGAN_CACHE``, else ``~/.cache/fagan_hf``.
        progress: Show bars?

    Raises:
        ValueError: There are fewer real images than ``num_images``, fewer images than the features need, real images of
            another size or without the generator's labels, or pixels that are not finite.
        ImportError: The features need a package; says which.
        OSError: The features' weights can't be downloaded; says what works without.
    """
    check_match(generator, images)
    extractor = build_features(features)
    num_images = extractor.num_images if num_images is None else num_images
    check_counts(num_images, images, extractor)
    real = real_features(images, extractor, device=generator.device, cache_dir=cache_dir, progress=progress)
    seeds = range(FIRST_SEED, FIRST_SEED + num_images)
    labels = labels_of(images, real.rows[:num_images])
    fake, seconds = generated_features(generator, extractor, seeds, labels, batch_size=batch_size, progress=progress)
    return compare(generator, images, extractor, fake, seconds, real)


def check_match(generator: Generator, images: Images) -> None:
    """See that real images are of the generator's kind.

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
            f"{', '.join(images.label_names) or 'none'}; give the label columns that it was trained with: "
            "--label_columns"
        )
