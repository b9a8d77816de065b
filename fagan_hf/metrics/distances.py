"""Compare two sets of images by their features: distances, and coverage of one by the other.

Every function takes features ``[images, features]`` of any dtype on any device, and computes in double precision.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

_KERNEL_IMAGES = 8192  # up to this many images the full kernel matrices are kept: three of half a gigabyte each
_AT_A_TIME = 1024  # images whose distances are computed at a time

Features = Float[Tensor, "images features"]


def frechet_distance(first: Features, second: Features) -> float:
    """Compute the Fréchet distance, which compares means and covariances only.

    Biased upward by a term that decreases as 1/n: only distances of the same number of images are comparable.

    Raises:
        ValueError: A set has no more images than features, so that its covariance is rank-deficient, or a feature is
            not finite.

    Reference:
        Heusel et al., arXiv:1706.08500, equation 6; Dowson and Landau 1982.
    """
    for features in (first, second):
        check_features(features)
        check_rank(*features.shape)
    return gaussian_frechet_distance(*moments(first), *moments(second))


def check_rank(count: int, dimensions: int) -> None:
    """Check that there are enough images for a full-rank covariance of the features.

    Raises:
        ValueError: There are too few; says how many are needed.
    """
    if count <= dimensions:
        raise ValueError(
            f"the covariance of {count:,} images has rank {max(count - 1, 0):,} at most, but there are "
            f"{dimensions:,} features; a Fréchet distance needs at least {dimensions + 1:,} images"
        )


def moments(features: Features) -> tuple[Float[Tensor, " features"], Float[Tensor, "features features"]]:
    """Return the mean and the unbiased covariance."""
    features = features.double()
    return features.mean(0), torch.cov(features.T).reshape(2 * features.shape[1:])


def gaussian_frechet_distance(
    mean: Float[Tensor, " features"],
    covariance: Float[Tensor, "features features"],
    other_mean: Float[Tensor, " features"],
    other_covariance: Float[Tensor, "features features"],
) -> float:
    """Return the squared Wasserstein-2 distance of two normal distributions.

    ``|m1 - m2|² + tr(C1 + C2 - 2 (C1^½ C2 C1^½)^½)``. The product under the root is symmetric, so its eigenvalues are
    real, and no general matrix square root is needed, which may become complex by rounding.
    """
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    product = root @ other_covariance @ root
    overlap = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    shift = (mean - other_mean).square().sum()
    distance = shift + covariance.trace() + other_covariance.trace() - 2 * overlap
    return float(distance.clamp(min=0))


class KernelDistance(NamedTuple):
    """Mean and standard deviation over subsets of the images."""

    value: float
    error: float


def kernel_distance(
    real: Features, fake: Features, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> KernelDistance:
    """Compute the kernel inception distance (KID) for any features: it compares moments up to the third.

    Unbiased: for equal distributions it is around 0, and may be negative.

    Args:
        real: Features of real images.
        fake: Features of generated images.
        subsets: Number of pairs of subsets.
        subset_size: Images per subset; half of the smaller set, if that is less.
        seed: Seed of the random subsets.

    Returns:
        Mean and standard deviation over the subsets, as reported by the authors. Subsets overlap, so the standard
        deviation measures how much a subset varies rather than the uncertainty of the mean.

    Raises:
        ValueError: A set has fewer than four images, or a feature is not finite.

    Reference:
        Bińkowski et al., arXiv:1801.01401, section 4: the polynomial kernel ``(x·y / d + 1)³``.
    """
    for features in (real, fake):
        check_features(features)
    size = min(subset_size, len(real) // 2, len(fake) // 2)
    if size < 2:
        raise ValueError(f"{len(real):,} real and {len(fake):,} generated images; a kernel distance needs 4 of each")
    # On the CPU, where random numbers are the same on every machine.
    random = torch.Generator().manual_seed(seed)

    def choose(features: Features) -> Tensor:
        return torch.randperm(len(features), generator=random)[:size].to(features.device)

    real, fake = real.double(), fake.double()
    among_real, among_fake, between = (_kernel(*pair) for pair in ((real, real), (fake, fake), (real, fake)))

    def squared_mmd(rows: Tensor, columns: Tensor) -> float:
        pairs = [of(each, each) for of, each in ((among_real, rows), (among_fake, columns))]
        means = [(each.sum() - each.trace()) / (size * (size - 1)) for each in pairs]
        return float(sum(means) - 2 * between(rows, columns).mean())

    found = torch.tensor([squared_mmd(choose(real), choose(fake)) for _ in range(subsets)], dtype=torch.double)
    return KernelDistance(float(found.mean()), float(found.std(correction=0)))


def _kernel(first: Features, second: Features) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function that computes the kernel of some rows of either set, from the whole kernel if it fits."""

    def of(one: Features, other: Features) -> Tensor:
        return (one @ other.T / one.shape[1] + 1) ** 3

    if max(len(first), len(second)) > _KERNEL_IMAGES:
        return lambda rows, columns: of(first[rows], second[columns])
    whole = of(first, second)
    return lambda rows, columns: whole[rows][:, columns]


class Neighborhoods(NamedTuple):
    """Overlap of two sets; all values except `density` are fractions from 0 to 1.

    Attributes:
        precision: Fraction of generated images within the neighborhood of a real image.
        recall: Fraction of real images within the neighborhood of a generated image.
        density: Number of real neighborhoods that contain a generated image, relative to its expected value: 1 for
            equal distributions, higher if images concentrate at the modes.
        coverage: Fraction of real images with a generated one in their neighborhood.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def neighborhoods(real: Features, fake: Features, *, neighbors: int = 3, coverage_neighbors: int = 5) -> Neighborhoods:
    """Compute precision, recall, density and coverage.

    An image's neighborhood is the ball around it that reaches its k-th nearest neighbor in its own set.

    Args:
        real: Features of real images.
        fake: Features of generated images.
        neighbors: k of precision and recall.
        coverage_neighbors: k of density and coverage.

    Raises:
        ValueError: A set has no more images than neighbors, or a feature is not finite.

    Reference:
        Kynkäänniemi et al., arXiv:1904.06991, equation 2 (precision, recall); Naeem et al., arXiv:2002.09797,
        equations 3 and 4 (density, coverage).
    """
    for features in (real, fake):
        check_features(features)
        if len(features) <= max(neighbors, coverage_neighbors):
            raise ValueError(
                f"there are {len(features):,} images; their neighborhoods need more than "
                f"{max(neighbors, coverage_neighbors)}"
            )
    real, fake = real.double(), fake.double()
    narrow, wide = _radii(real, neighbors, coverage_neighbors)
    [of_fake] = _radii(fake, neighbors)
    is_precise = torch.zeros(len(fake), dtype=torch.bool, device=fake.device)
    recalled = covered = inside = 0
    for rows in torch.arange(len(real), device=real.device).split(_AT_A_TIME):
        distances = torch.cdist(real[rows], fake)
        is_precise |= (distances <= narrow[rows, None]).any(0)
        recalled += int((distances <= of_fake).any(1).sum())
        is_inside = distances <= wide[rows, None]
        covered += int(is_inside.any(1).sum())
        inside += int(is_inside.sum())
    return Neighborhoods(
        precision=float(is_precise.double().mean()),
        recall=recalled / len(real),
        density=inside / len(fake) / coverage_neighbors,
        coverage=covered / len(real),
    )


def _radii(features: Features, *neighbors: int) -> list[Float[Tensor, " images"]]:
    """Return the distance from each image to its k-th nearest neighbor in its own set, for each k."""
    most = max(neighbors) + 1  # the nearest is the image itself
    parts = [torch.cdist(rows, features).topk(most, dim=1, largest=False).values for rows in features.split(_AT_A_TIME)]
    return [torch.cat([part[:, k] for part in parts]) for k in neighbors]


def nearest(
    features: Float[Tensor, "images features"],
    others: Float[Tensor, "others features"],
    *,
    are_among: bool = False,
) -> tuple[Float[Tensor, " images"], Int[Tensor, " images"]]:
    """Find the nearest of other images to each image.

    Args:
        features: Features of the images.
        others: Features of the images to search.
        are_among: Whether the images are the first of the others, so that each must be excluded from its own search.

    Returns:
        Distance and index of the nearest image.

    Raises:
        ValueError: There are no others, or a feature is not finite.
    """
    for each in (features, others):
        check_features(each)
    if len(others) <= are_among:
        raise ValueError("there are no images to search for the nearest one")
    features, others = features.double(), others.double()

    def look(rows: Tensor) -> Any:
        distances = torch.cdist(features[rows], others)
        if are_among:
            distances[torch.arange(len(rows)), rows] = torch.inf
        return distances.min(1)

    best = [look(rows) for rows in torch.arange(len(features), device=features.device).split(_AT_A_TIME)]
    return torch.cat([each.values for each in best]), torch.cat([each.indices for each in best])


def check_features(features: Tensor) -> None:
    """Check that features can be compared.

    Raises:
        ValueError: They are not a matrix, or a value is not finite; says for how many images.
    """
    if features.ndim != 2:
        raise ValueError(f"features are {list(features.shape)}; they must be [images, features]")
    broken = int((~features.isfinite().all(1)).sum())
    if broken:
        raise ValueError(
            f"{broken:,} of {len(features):,} images have features that are not finite; "
            "a generator that outputs NaN has diverged, so look at its images"
        )
