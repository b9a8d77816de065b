import math

import numpy as np
import pytest
import scipy.linalg
import torch

from fagan_hf.metrics.distances import (
    frechet_distance,
    gaussian_frechet_distance,
    kernel_distance,
    moments,
    nearest,
    neighborhoods,
)


def normal(count, dimensions=8, seed=0):
    return torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(seed, dimensions=6):
    root = normal(dimensions, dimensions, seed)
    return root @ root.T


def test_normal_distributions_with_equal_covariance_are_as_far_apart_as_their_means():
    assert gaussian_frechet_distance(
        torch.zeros(6).double(), covariance(0), torch.full((6,), 2.0).double(), covariance(0)
    ) == pytest.approx(24)


def test_distance_of_diagonal_covariances_is_that_of_deviations():
    """In one dimension it is ``(m - n)² + (s - t)²``, and dimensions add up."""
    deviations, others = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([2.0, 2.0, 0.5]).double()
    mean, zero = torch.tensor([0.5, 0.0, -1.0]).double(), torch.zeros(3).double()
    found = gaussian_frechet_distance(mean, deviations.square().diag(), zero, others.square().diag())
    assert found == pytest.approx(float(mean.square().sum() + (deviations - others).square().sum()))


@pytest.mark.parametrize("seed", range(3))
def test_distance_agrees_with_a_general_matrix_root(seed):
    one, other = covariance(seed), covariance(seed + 10)
    root = np.asarray(scipy.linalg.sqrtm((one @ other).numpy())).real
    expected = float(one.trace() + other.trace() - 2 * np.trace(root))
    zero = torch.zeros(6).double()
    assert gaussian_frechet_distance(zero, one, zero, other) == pytest.approx(expected, rel=1e-9)


def test_singular_covariances_are_no_problem():
    mean, flat = torch.zeros(4).double(), torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0])).double()
    assert gaussian_frechet_distance(mean, flat, mean, flat) == pytest.approx(0, abs=1e-9)
    assert gaussian_frechet_distance(mean, flat, mean, flat.flip(0, 1)) == pytest.approx(4)


def test_moments_are_numpys():
    features = normal(50)
    mean, found = moments(features.float())
    np.testing.assert_allclose(mean, features.numpy().mean(0), atol=1e-6)
    np.testing.assert_allclose(found, np.cov(features.numpy().T), atol=1e-6)
    assert moments(torch.rand(9, 1))[1].shape == (1, 1)


def test_identical_sets():
    features = normal(200)
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-8)
    # Unbiased: each image meets itself in the other set, but not in its own.
    assert kernel_distance(features, features).value < 0
    assert neighborhoods(features, features) == (1, 1, pytest.approx(1.0, abs=0.25), 1)
    distances, indices = nearest(features, features)
    assert distances.max() < 1e-6
    assert indices.tolist() == list(range(200))


def test_a_shift_is_found_and_grows():
    features = normal(1000)
    frechet = [frechet_distance(features, features + shift) for shift in (0.1, 0.5, 2)]
    assert frechet == pytest.approx([8 * shift**2 for shift in (0.1, 0.5, 2)], rel=1e-6)
    others = normal(1000, seed=1)
    kernel = [kernel_distance(features, others + shift) for shift in (0, 0.5, 2)]
    assert abs(kernel[0].value) < 3 * kernel[0].error
    assert kernel[1].value > 5 * kernel[1].error
    assert kernel[2].value > kernel[1].value
    assert neighborhoods(features, others + 20) == (0, 0, 0, 0)


def test_few_images_look_farther_apart():
    """This bias is why only equal numbers of images are comparable; the kernel distance has none."""
    found = {count: frechet_distance(normal(count, seed=1), normal(count, seed=2)) for count in (50, 200, 800)}
    assert found[50] > 2 * found[200] > 4 * found[800] > 0
    kernel = [kernel_distance(normal(50, seed=2 * seed), normal(50, seed=2 * seed + 1)).value for seed in range(60)]
    assert abs(np.mean(kernel)) < 4 * np.std(kernel) / math.sqrt(60)


def modes(which, count, seed):
    """Sample from small, well-separated clusters."""
    centers = torch.eye(8).double() * 10
    labels = torch.arange(count) % len(which)
    return centers[torch.tensor(which)[labels]] + 0.3 * normal(count, seed=seed)


def test_dropped_modes_lower_recall_and_coverage_but_not_precision():
    real = modes(range(8), 800, seed=1)
    whole, half = (neighborhoods(real, modes(which, 800, seed=2)) for which in (range(8), range(4)))
    assert min(whole.recall, whole.coverage, whole.precision) > 0.8
    assert half.precision > 0.8
    assert 0.35 < half.recall < 0.55
    assert 0.35 < half.coverage < 0.55


def test_invented_modes_lower_precision_but_not_recall():
    fake = modes(range(8), 800, seed=2)
    half = neighborhoods(modes(range(4), 800, seed=1), fake)
    assert 0.35 < half.precision < 0.55
    assert half.recall > 0.8


def test_one_far_image_is_not_taken_for_a_wide_manifold_by_density():
    """A single real outlier enlarges the balls of precision; density counts the balls instead."""
    real = torch.cat([normal(300, seed=1) * 0.1, torch.full((1, 8), 100.0).double()])
    fake = normal(300, seed=2) + 50  # within the outlier's ball
    found = neighborhoods(real, fake)
    assert found.precision == 1
    assert found.density < 0.5


def test_collapse_has_no_recall():
    real = normal(500, seed=1)
    collapsed = real[:1] + 1e-3 * normal(500, seed=2)
    found = neighborhoods(real, collapsed)
    assert found.precision == 1
    assert found.recall < 0.05
    assert found.coverage < 0.1


def test_the_nearest_in_parts_is_the_nearest():
    images, others = normal(1500, seed=1), normal(700, seed=2)
    distances, indices = nearest(images, others)
    expected = torch.cdist(images, others)
    assert torch.equal(indices, expected.argmin(1))
    torch.testing.assert_close(distances, expected.amin(1))


def test_the_nearest_other_one(monkeypatch):
    """The first 40 of 70 images, each against all but itself; one occurs twice."""
    images = normal(70)
    images[3] = images[55]
    expected = torch.cdist(images, images).fill_diagonal_(torch.inf)[:40]
    monkeypatch.setattr("fagan_hf.metrics.distances._AT_A_TIME", 16)
    distances, indices = nearest(images[:40], images, are_among=True)
    assert torch.equal(indices, expected.argmin(1))
    torch.testing.assert_close(distances, expected.amin(1))
    assert indices[3] == 55
    with pytest.raises(ValueError, match="no images to search for"):
        nearest(images[:1], images[:1], are_among=True)


def test_neighborhoods_in_parts_are_the_whole(monkeypatch):
    real, fake = normal(130, seed=1), 0.8 * normal(110, seed=2)
    whole = neighborhoods(real, fake)
    monkeypatch.setattr("fagan_hf.metrics.distances._AT_A_TIME", 30)
    assert neighborhoods(real, fake) == whole
    assert 0 < whole.recall < whole.precision <= 1

    def radius(features, k):
        return torch.cdist(features, features).sort(1).values[:, k]

    between = torch.cdist(real, fake)  # the papers' formulas, literally
    assert whole.precision == pytest.approx(float((between <= radius(real, 3)[:, None]).any(0).double().mean()))
    assert whole.recall == pytest.approx(float((between <= radius(fake, 3)).any(1).double().mean()))
    in_balls = between <= radius(real, 5)[:, None]
    assert whole.density == pytest.approx(float(in_balls.sum()) / (5 * 110))
    assert whole.coverage == pytest.approx(float(in_balls.any(1).double().mean()))


@pytest.mark.parametrize("count", [2, 8])
def test_too_few_images_for_the_features(count):
    with pytest.raises(ValueError, match=rf"the covariance of {count} images has rank {count - 1}.*at least 9 images"):
        frechet_distance(normal(100), normal(count))
    frechet_distance(normal(100), normal(9))


def test_too_few_images_for_neighborhoods_and_kernels():
    with pytest.raises(ValueError, match="there are 5 images; their neighborhoods need more than 5"):
        neighborhoods(normal(50), normal(5))
    with pytest.raises(ValueError, match="3 real and 9 generated images"):
        kernel_distance(normal(3), normal(9))
    with pytest.raises(ValueError, match="no images to search for"):
        nearest(normal(3), normal(0))


@pytest.mark.parametrize("function", [frechet_distance, kernel_distance, neighborhoods, nearest])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_not_finite(function, value):
    broken = normal(20)
    broken[3, 1] = broken[5, 2] = value
    for pair in ((broken, normal(20)), (normal(20), broken)):
        with pytest.raises(ValueError, match="2 of 20 images have features that are not finite"):
            function(*pair)


def test_kernels_that_are_too_large_to_hold_are_computed_for_each_subset(monkeypatch):
    real, fake = normal(90), normal(80, seed=1) + 0.3
    held = kernel_distance(real, fake, subsets=5, subset_size=30)
    monkeypatch.setattr("fagan_hf.metrics.distances._KERNEL_IMAGES", 85)
    assert kernel_distance(real, fake, subsets=5, subset_size=30) == pytest.approx(held, rel=1e-9)


def test_a_distance_that_is_no_number_is_not_taken_for_the_best():
    zero, one = torch.zeros(2).double(), torch.eye(2).double()
    assert math.isnan(gaussian_frechet_distance(zero + math.nan, one, zero, one))


def test_the_choice_of_subsets_is_the_seeds():
    real, fake = normal(300), normal(300, seed=1)
    results = [kernel_distance(real, fake, subsets=5, subset_size=100, seed=seed) for seed in (0, 0, 1)]
    assert results[0] == results[1] != results[2]
