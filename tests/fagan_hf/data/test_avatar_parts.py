"""Masks of a portrait's parts: they partition it, lie where a face has them, and match the drawing's colors."""

import numpy as np
import pytest

from fagan_hf.data import avatars
from fagan_hf.data.avatar_parts import PARTS, avatar_parts, source_parts
from fagan_hf.data.avatars import avatar_labels, draw_avatar
from fagan_hf.data.image_source import ImageSource

SEEDS = range(12)


@pytest.fixture(scope="module")
def portraits():
    return {seed: (draw_avatar(seed, size=96), avatar_parts(seed, size=96), avatar_labels(seed)) for seed in SEEDS}


def _row(mask):
    return np.nonzero(mask)[0].mean()


@pytest.mark.parametrize("size", [8, 33, 64])
def test_the_masks_partition_the_picture(size):
    for seed in range(3):
        masks = avatar_parts(seed, size=size)
        assert tuple(masks) == PARTS
        np.testing.assert_array_equal(np.stack([*masks.values()]).sum(0), np.ones((size, size)))


def test_a_face_is_in_order_from_top_to_bottom(portraits):
    for _, masks, _ in portraits.values():
        assert all(masks[part].any() for part in PARTS)
        assert _row(masks["eyes"]) < _row(masks["mouth"]) < _row(masks["clothes"])
        assert masks["background"][0].all()
        assert not masks["background"][-1].all()


def test_both_eyes_are_beside_the_mouth(portraits):
    for _, masks, _ in portraits.values():
        columns, middle = np.nonzero(masks["eyes"])[1], np.nonzero(masks["mouth"])[1].mean()
        assert 0.1 < (columns < middle).mean() < 0.9  # one may wink


def test_masks_have_the_colors_of_the_drawing(portraits):
    tables = {
        "skin": ("skin_tone", {name: color for name, (color, _) in avatars._SKIN_TONES.items()}),
        "hair": ("hair_color", avatars._HAIR_COLORS),
        "clothes": ("clothes_color", avatars._CLOTHES_COLORS),
    }
    for picture, masks, labels in portraits.values():
        for part, (label, colors) in tables.items():
            color = [int(colors[labels[label]][start : start + 2], 16) for start in (1, 3, 5)]
            is_color = (picture == color).all(-1)
            assert is_color[masks[part]].mean() > 0.2, part
            assert is_color[~masks[part]].mean() < 0.01, part  # nowhere else


def test_the_background_is_where_the_gradient_is(portraits):
    for seed, (picture, masks, _) in portraits.items():
        first, second = ([int(color[start : start + 2], 16) for start in (1, 3, 5)] for color in _background(seed))
        low, high = np.minimum(first, second) - 2, np.maximum(first, second) + 2
        is_gradient = ((picture >= low) & (picture <= high)).all(-1)
        assert (is_gradient == masks["background"]).mean() > 0.97


def _background(seed):
    return avatars._person(seed)[1]["backgroundColor"]


def test_small_masks_are_the_large_ones_reduced():
    large = avatar_parts(4, size=256)
    for part, mask in avatar_parts(4, size=32).items():
        share = large[part].reshape(32, 8, 32, 8).mean((1, 3))
        assert np.abs(mask - share)[(share < 0.2) | (share > 0.8)].max() < 0.5


def test_parts_of_a_source_are_in_the_order_of_its_images():
    parts = source_parts(ImageSource("avatars", resolution=16, split="test"), 2)
    assert parts.shape == (2, 16, 16)
    for index, seed in enumerate(avatars.TEST_SEEDS[:2]):
        for number, mask in enumerate(avatar_parts(seed, size=16).values()):
            np.testing.assert_array_equal(parts[index] == number, mask)
    assert len(source_parts(ImageSource("avatars:toon-head", resolution=16, num_avatars=3))) == 3


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: source_parts(ImageSource("emoji.zip", resolution=16)),
            "'emoji.zip' are not known: only drawn avatars",
        ),
        (lambda: source_parts(ImageSource("avatars:adventurer", resolution=16)), "style 'adventurer' are not known"),
        (lambda: source_parts(ImageSource("avatars", resolution=16), 8193), "count is 8193; there are 8,192 avatars"),
        (lambda: avatar_parts(0, style="adventurer"), "style 'adventurer' are not known, only those of 'toon-head'"),
        (lambda: avatar_parts(0, style="toonhead"), "unknown avatar style 'toonhead'; did you mean"),
        (lambda: avatar_parts(-1), "seed must be an integer of at least 0"),
        (lambda: avatar_parts(0, size=4), "size must be an integer of at least 8"),
    ],
)
def test_what_has_no_parts_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
