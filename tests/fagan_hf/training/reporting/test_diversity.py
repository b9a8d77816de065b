import numpy as np
import pytest

from fagan_hf.training.reporting.diversity import diversity


def noise(count, size=16, channels=3):
    """Images that differ in large shapes: noise of 4x4 blocks."""
    blocks = np.random.default_rng(0).integers(0, 256, (count, channels, size // 4, size // 4), dtype=np.uint8)
    return blocks.repeat(4, axis=2).repeat(4, axis=3)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_root_mean_square_of_two(channels):
    pair = np.full((2, channels, 16, 16), 10, np.uint8)
    pair[1] = 30
    assert diversity(pair) == pytest.approx(20)


@pytest.mark.parametrize("size", [4, 8, 64])
def test_of_any_size(size):
    assert diversity(noise(32, size)) > 50


def test_most_alike_is_alike_although_pixels_vary():
    images = noise(64)
    whole = diversity(images)
    images[:36] = images[0]
    assert images.astype(float).var(0).mean() > 2000  # of about 5400
    assert diversity(images) < 0.01 * whole


def test_less_than_half_alike_is_not():
    images = noise(64)
    whole = diversity(images)
    images[:26] = images[0]
    assert diversity(images) > 0.8 * whole


def test_fine_noise_is_no_difference():
    images = np.random.default_rng(0).integers(0, 256, (16, 3, 64, 64), dtype=np.uint8)
    assert diversity(images) < 0.3 * diversity(noise(16, 64))


def test_one_image_has_nothing_to_differ_from():
    with pytest.raises(ValueError, match="there are 1 images; at least two"):
        diversity(noise(1))
