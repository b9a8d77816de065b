import hashlib
import multiprocessing
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fagan_hf.data import avatars
from fagan_hf.data.avatars import (
    DEFAULT_STYLE,
    TEST_SEEDS,
    TRAIN_SEEDS,
    attribution,
    avatar_labels,
    draw_avatar,
    drawing_version,
    label_values,
    style_names,
)

SHORT = ("side part", "undercut", "spiky", "bald")
SEEDS = range(64)


def _digest(style: str) -> str:
    pictures = [draw_avatar(seed, style=style, size=32) for seed in range(96)]
    return hashlib.sha256(np.stack(pictures).tobytes()).hexdigest()


def _rgb(color: str) -> np.ndarray:
    return np.array([int(color[start : start + 2], 16) for start in (1, 3, 5)])


def _area(picture: np.ndarray, color: str) -> float:
    """Measure the share of an image that has exactly this color."""
    return float((picture == _rgb(color)).all(axis=-1).mean())


def _distance_to_gradient(pixels: np.ndarray, first: str, second: str) -> np.ndarray:
    """Measure how far pixels [N, 3] are from the nearest mixture of two colors [0 to 255]."""
    start, step = _rgb(first), _rgb(second) - _rgb(first)
    share = np.clip((pixels - start) @ step / (step @ step), 0, 1)
    return np.abs(pixels - (start + share[:, None] * step)).max(axis=1)


@pytest.fixture(scope="module")
def people() -> list[dict[str, str | bool]]:
    return [avatar_labels(seed) for seed in range(2000)]


# The same image everywhere, always. A new digest needs a new avatars._VERSION.


@pytest.mark.parametrize(
    ("style", "digest"),
    [
        ("toon-head", "8f7e17486b218744b2cb6c0d3f4b6eb4fb1864c69d7d35b2da2cdf777b63db41"),
        ("adventurer", "70a1698478203b590475e48c3839c52b838c2e04ecef3573eecbbf90bef4a010"),
    ],
)
def test_pictures_never_change_unnoticed(style: str, digest: str):
    assert _digest(style) == digest


def test_another_process_draws_the_same_picture():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        elsewhere = pool.map(draw_avatar, [3, 2**40])
    np.testing.assert_array_equal(elsewhere, [draw_avatar(3), draw_avatar(2**40)])


def test_train_and_test_seeds_are_disjoint_and_complete():
    assert (len(TRAIN_SEEDS), len(TEST_SEEDS)) == (8192, 2048)
    assert not set(TRAIN_SEEDS) & set(TEST_SEEDS)


def test_seeds_differ():
    assert len({draw_avatar(seed, size=32).tobytes() for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("size", [8, 33, 64, 65, 128])
def test_shape_and_type(size: int):
    picture = draw_avatar(np.int64(5), size=size)
    assert (picture.shape, picture.dtype) == ((size, size, 3), np.uint8)


@pytest.mark.parametrize("size", [32, 64])
def test_small_pictures_are_the_large_one_reduced(size: int):
    factor = 512 // size
    for seed in range(4):
        large = draw_avatar(seed, size=512).reshape(size, factor, size, factor, 3).mean(axis=(1, 3))
        assert np.sqrt(np.mean((draw_avatar(seed, size=size) - large) ** 2)) < 3


# Labels match the drawing.


def test_labels_are_what_dicebear_drew():
    for seed in SEEDS:
        labels = avatar_labels(seed)
        drawn = avatars._avatar(seed, DEFAULT_STYLE).to_json()["options"]
        hairdo = avatars._HAIRDOS[labels["hair"]]
        assert (drawn.get("hairVariant"), drawn.get("rearHairVariant")) == (hairdo.front, hairdo.rear)
        assert ("beardVariant" in drawn) is labels["beard"]
        for name in ("eyes", "eyebrows", "mouth", "clothes"):
            assert drawn[f"{name}Variant"] == labels[name]


def test_color_labels_are_the_colors_of_the_picture():
    for seed in SEEDS:
        labels, picture = avatar_labels(seed), draw_avatar(seed)
        tables = {
            "skin_tone": {name: color for name, (color, _) in avatars._SKIN_TONES.items()},
            "hair_color": avatars._HAIR_COLORS,
        }
        for label, colors in tables.items():
            areas = {name: _area(picture, color) for name, color in colors.items()}
            assert max(areas, key=areas.__getitem__) == labels[label]


def test_beard_label_is_hair_on_the_chin():
    for seed in range(128):
        labels = avatar_labels(seed)
        if labels["hair"] in SHORT:
            below_the_nose = draw_avatar(seed)[78:112, 48:80]
            hair = _area(below_the_nose, avatars._HAIR_COLORS[labels["hair_color"]])
            assert (hair > 0.01) is labels["beard"], (seed, hair)


@given(seed=st.integers(0, 2**64))
def test_every_label_has_a_listed_value(seed: int):
    values, labels = label_values(), avatar_labels(seed)
    assert list(labels) == list(values)
    for name, value in labels.items():
        assert isinstance(value, bool) if values[name] is None else value in values[name]


def test_every_value_occurs(people: list[dict[str, str | bool]]):
    for name, values in label_values().items():
        assert {person[name] for person in people} == set(values or (False, True))


# Portraits look natural, and fill the image.


def test_rates_are_natural(people: list[dict[str, str | bool]]):
    def rate(**wanted: str | bool) -> float:
        return sum(wanted.items() <= person.items() for person in people) / len(people)

    assert 0.25 < rate(beard=True) < 0.30
    assert sum(rate(beard=True, hair=hair) for hair in label_values()["hair"] if hair not in SHORT) < 0.02
    assert rate(beard=True, clothes="dress") == 0
    assert 0.6 < rate(mouth="smile") + rate(mouth="laugh") < 0.85
    assert rate(hair="bald") < 0.1
    assert rate(hair_color="blond", skin_tone="dark") == 0
    assert 0.03 < rate(hair_color="gray") < 0.12
    assert max(Counter(person["skin_tone"] for person in people).values()) < 0.3 * len(people)


def test_half_are_mirrored():
    mirrored = sum(avatars._person(seed)[1]["flip"] == "horizontal" for seed in range(2000))
    assert 0.45 < mirrored / 2000 < 0.55


def test_no_edge_of_the_drawing_shows():
    for seed in SEEDS:
        picture = draw_avatar(seed).astype(float)
        colors = avatars._person(seed)[1]["backgroundColor"]
        corners = picture[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert _distance_to_gradient(corners, *colors).max() < 3, seed
        assert _distance_to_gradient(picture[0], *colors).max() < 3, f"hair of {seed} is cut"
        assert _distance_to_gradient(picture[-1, 50:78], *colors).min() > 5, f"shoulders of {seed} end"


def test_the_person_fills_the_picture():
    for seed in SEEDS:
        picture = draw_avatar(seed, size=64).astype(float)
        colors = avatars._person(seed)[1]["backgroundColor"]
        person = _distance_to_gradient(picture.reshape(-1, 3), *colors) > 5
        assert 0.4 < person.mean() < 0.8, seed


# Styles: where they come from, and the others.


def test_attribution_is_the_styles_own():
    credit = attribution()
    assert (credit.title, credit.creator, credit.license_name) == ("ToonHead", "Johan Melin", "CC BY 4.0")
    assert credit.license_url == "https://creativecommons.org/licenses/by/4.0/"
    assert all(part in str(credit) for part in vars(credit).values())


def test_every_style_is_attributed_and_versioned():
    names = style_names()
    assert DEFAULT_STYLE in names
    assert list(names) == sorted(names)
    assert all(vars(attribution(style)).values() for style in names)
    assert len({drawing_version(style) for style in names}) == len(names)


@pytest.mark.parametrize("style", ["adventurer", "avataaars", "initials", "open-peeps", "pixel-art"])
def test_other_styles_draw_and_label(style: str):
    values = label_values(style)
    assert draw_avatar(0, style=style, size=48).shape == (48, 48, 3)
    assert len({draw_avatar(seed, style=style, size=48).tobytes() for seed in range(4)}) == 4
    for seed in range(4):
        labels = avatar_labels(seed, style=style)
        assert list(labels) == list(values)
        assert all(value in values[name] for name, value in labels.items())


@pytest.mark.parametrize("style", ["initials", "initial-face"])
def test_no_picture_needs_fonts(style: str):
    assert not any("<text" in avatars._avatar(seed, style).to_string() for seed in SEEDS)


def test_version_follows_us_and_the_packages(monkeypatch: pytest.MonkeyPatch):
    installed = dict.fromkeys(("dicebear-core", "dicebear-styles", "resvg-py"), "1.0")
    monkeypatch.setattr(avatars.metadata, "version", lambda name: installed[name])
    versions = [drawing_version(DEFAULT_STYLE)]
    for package in installed:
        installed[package] = "1.1"
        versions.append(drawing_version(DEFAULT_STYLE))
    monkeypatch.setattr(avatars, "_VERSION", 10**6)
    versions.append(drawing_version(DEFAULT_STYLE))
    assert len(set(versions)) == len(versions)


# Errors.


@pytest.mark.parametrize("call", [draw_avatar, avatar_labels])
@pytest.mark.parametrize("seed", [-1, 1.0, "1", None, True])
def test_bad_seed(call, seed: object):
    with pytest.raises(ValueError, match=r"seed must be an integer of at least 0, got"):
        call(seed)


@pytest.mark.parametrize("size", [7, 0, -64, 32.0])
def test_bad_size(size: object):
    with pytest.raises(ValueError, match=r"size must be an integer of at least 8, got"):
        draw_avatar(0, size=size)


@pytest.mark.parametrize(
    "call",
    [
        attribution,
        label_values,
        drawing_version,
        lambda style: draw_avatar(0, style=style),
        lambda style: avatar_labels(0, style=style),
    ],
    ids=["attribution", "label_values", "drawing_version", "draw_avatar", "avatar_labels"],
)
def test_unknown_style_names_the_nearest(call):
    with pytest.raises(ValueError, match=r"'toonhead'.*did you mean 'toon-head'.*adventurer"):
        call("toonhead")


@pytest.mark.parametrize("package", ["dicebear", "dicebear_styles", "resvg_py"])
def test_missing_package_says_what_to_install(package: str, monkeypatch: pytest.MonkeyPatch):
    for cached in (avatars._style, avatars._definition, avatars._style_files):
        cached.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'{package}.*pip install "fagan-hf\[train\]"') as error:
        draw_avatar(0)
    assert isinstance(error.value.__cause__, ImportError)


def test_importing_needs_none_of_the_packages():
    code = "import sys, fagan_hf.data.avatars; sys.exit(bool({'dicebear', 'resvg_py'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
