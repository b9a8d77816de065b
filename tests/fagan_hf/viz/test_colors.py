import numpy as np
import pytest

from fagan_hf.viz.colors import as_picture, as_rgb, rgb_planes, straight_alpha

RGB = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


def test_rgb_is_unchanged():
    assert as_rgb(RGB) is RGB
    assert np.array_equal(np.asarray(as_picture(RGB)), RGB)


def test_gray():
    gray = RGB[..., :1]
    assert np.array_equal(as_rgb(gray), np.concatenate([gray] * 3, axis=-1))
    picture = as_picture(gray)
    assert (picture.mode, np.array_equal(np.asarray(picture), gray[..., 0])) == ("L", True)


def test_transparency():
    straight = np.array([[[200, 100, 0, 255], [200, 100, 0, 128], [200, 100, 0, 0]]], np.uint8)
    alpha = straight[..., 3:].astype(float) / 255
    premultiplied = np.concatenate([(straight[..., :3] * alpha).round(), straight[..., 3:]], axis=-1).astype(np.uint8)
    assert as_rgb(premultiplied)[0].tolist() == [[200, 100, 0], [227, 177, 127], [255, 255, 255]]
    assert as_rgb(premultiplied, background=0)[0].tolist() == [[200, 100, 0], [100, 50, 0], [0, 0, 0]]
    restored = straight_alpha(premultiplied)[0].tolist()
    assert restored[0] == [200, 100, 0, 255]
    assert np.abs(np.array(restored[1]) - [200, 100, 0, 128]).max() <= 1
    assert restored[2] == [0, 0, 0, 0]
    assert as_picture(premultiplied).mode == "RGBA"


def test_what_a_generator_may_produce_stays_in_range():
    """Nothing stops a network from colors brighter than their alpha."""
    bright = np.full((1, 1, 4), 200, np.uint8)
    bright[..., 3] = 10
    assert as_rgb(bright).tolist() == [[[255, 255, 255]]]
    assert straight_alpha(bright).tolist() == [[[255, 255, 255, 10]]]


def test_planes():
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 5), dtype=np.uint8)
    assert rgb_planes(images).shape == (2, 3, 5, 5)
    assert np.array_equal(rgb_planes(images)[1], as_rgb(images[1].transpose(1, 2, 0)).transpose(2, 0, 1))
    assert rgb_planes(images[:, :3]).shape == (2, 3, 5, 5)


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match="images have 2 channels; they must have 1, 3 or 4"):
        as_rgb(np.zeros((2, 2, 2), np.uint8))
