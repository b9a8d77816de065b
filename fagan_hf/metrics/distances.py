"""Compare two sets of images by their features: how far apart they are, and whether one covers the other.

Every function takes features ``[images, features]`` of any dtype on any device, and computes in double precision.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

_KERNEL_IMAGES = 8192  # of so many the whole kernel is held, three times half a gigabyte
_AT_A_TIME = 1024  # images of which all distances are held

Features = Float[Tensor, "images features"]


def frechet_distance(first: Features, second: Features) -> float:
    """Compare means and covariances: 0 for equal ones, whatever the rest of the distributions does.

    Biased upwards, by an amount that falls as 1/n: only distances of equally many images compare.

    Raises:
        ValueError: A set has not more images than features, so that its covariance has no full rank, or a feature is
            not finite.

    Reference:
        Heusel et al., arXiv:1706.08500, equation 6; Dowson and Landau 1982.
    """
    for features in (first, second):
        check_features(features)
        check_rank(*features.shape)
    return gaussian_frechet_distance(*moments(first), *moments(second))


def check_rank(count: int, dimensions: int) -> None:
    """See that so many images have a covariance of full rank in so many features.

    Raises:
        ValueError: They have not; says how many it takes.
    """
    if count <= dimensions:
        raise ValueError(
            f"{count:,} images have a covariance of rank {max(count - 1, 0):,} at most, but there are "
            f"{dimensions:,} features; a Fréchet distance needs at least {dimensions + 1:,} images"
        )


def moments(features: Features) -> tuple[Float[Tensor, " features"], Float[Tensor, "features features"]]:
    """Give the mean and the unbiased covariance."""
    features = features.double()
    return features.mean(0), torch.cov(features.T).reshape(2 * features.shape[1:])


def gaussian_frechet_distance(
    mean: Float[Tensor, " features"],
    covariance: Float[Tensor, "features features"],
    other_mean: Float[Tensor, " features"],
    other_covariance: Float[Tensor, "features features"],
) -> float:
    """Give the squared Wasserstein-2 distance of two normal distributions.

    ``|m1 - m2|² + tr(C1 + C2 - 2 (C1^½ C2 C1^½)^½)``. The product under the root is symmetric, so its eigenvalues are
    real and no general matrix root is needed, whose rounding may be complex.
    """
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    product = root @ other_covariance @ root
    overlap = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    shift = (mean - other_mean).square().sum()
    distance = shift + covariance.trace() + other_covariance.trace() - 2 * overlap
    return float(distance.clamp(min=0))


class KernelDistance(NamedTuple):
    """The mean over subsets of the images, and the standard deviation over them."""

    value: float
    error: float


def kernel_distance(
    real: Features, fake: Features, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> KernelDistance:
    """Compare all moments up to the third: the kernel inception distance, for whatever features.

    Unbiased: around 0, below it too, where both are the same distribution.

    Args:
        real: Features of real images.
        fake: Features of generated ones.
        subsets: How many pairs of subsets are compared.
        subset_size: How many images each has; half of the smaller set, if that is less.
        seed: Of the choice.

    Returns:
        The mean over the subsets, and the standard deviation over them, as the authors report it. Subsets overlap, so
        that it says how much a subset varies rather than how sure the mean is.

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
    # On the CPU, whose random numbers are the same everywhere.
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
    """Give what computes the kernel of some rows of either set: from all of it, where there is room for it."""

    def of(one: Features, other: Features) -> Tensor:
        return (one @ other.T / one.shape[1] + 1) ** 3

    if max(len(first), len(second)) > _KERNEL_IMAGES:
        return lambda rows, columns: of(first[rows], second[columns])
    whole = of(first, second)
    return lambda rows, columns: whole[rows][:, columns]


class Neighborhoods(NamedTuple):
    """How two sets lie in each other, each number a share from 0 to 1 but `density`.

    Attributes:
        precision: Generated images that look like real ones: that lie within a real image's neighborhood.
        recall: Real images that could be generated: that lie within a generated image's neighborhood.
        density: In how many real neighborhoods a generated image lies, of as many as would be expected: 1 where both
            are the same distribution, above where images crowd at the typical.
        coverage: Real images that have a generated one in their neighborhood.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def neighborhoods(real: Features, fake: Features, *, neighbors: int = 3, coverage_neighbors: int = 5) -> Neighborhoods:
    """Ask whether the generated images lie where real ones lie, and the other way around.

    An image's neighborhood is the ball that reaches to its k-th nearest neighbor in its own set.

    Args:
        real: Features of real images.
        fake: Features of generated ones.
        neighbors: k of precision and recall.
        coverage_neighbors: k of density and coverage.

    Raises:
        ValueError: A set has not more images than neighbors, or a feature is not finite.

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
    """Give how far each image's k-th nearest neighbor in its own set is, for each k."""
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
        features: Of the images.
        others: Of those to look among.
        are_among: Are the images the first of the others? No image is its own nearest then.

    Returns:
        Its distance, and which it is.

    Raises:
        ValueError: There are no others, or a feature is not finite.
    """
    for each in (features, others):
        check_features(each)
    if len(others) <= are_among:
        raise ValueError("there are no images to look for the nearest among")
    features, others = features.double(), others.double()

    def look(rows: Tensor) -> Any:
        distances = torch.cdist(features[rows], others)
        if are_among:
            distances[torch.arange(len(rows)), rows] = torch.inf
        return distances.min(1)

    best = [look(rows) for rows in torch.arange(len(features), device=features.device).split(_AT_A_TIME)]
    return torch.cat([each.values for each in best]), torch.cat([each.indices for each in best])


def check_features(features: Tensor) -> None:
    """See that features can be compared.

    Raises:
        ValueError: They are no matrix, or a number is not finite; says how many images have one.
    """
    if features.ndim != 2:
        raise ValueError(f"features are {list(features.shape)}; they must be [images, features]")
    broken = int((~features.isfinite().all(1)).sum())
    if broken:
        raise ValueError(
            f"{broken:,} of {len(features):,} images have features that are not finite; "
            "a generator that gives NaN has diverged, so look at its pictures"
        )
