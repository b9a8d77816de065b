"""Draw the built-in dataset: cartoon portraits, one per seed, with labels known because we choose them.

The drawings come from DiceBear (https://www.dicebear.com): `dicebear-styles` ships each style as a JSON file,
`dicebear-core` turns it into an SVG, `resvg-py` rasterizes that. Nothing is downloaded. The default style,
`toon-head`, is a remix of "ToonHead" by Johan Melin, CC BY 4.0
(https://www.figma.com/community/file/1589627891082866389). `attribution` reads title, creator and license of
every style from the style's metadata; anything that shows or ships the images must include it too.

For `toon-head` our own seeded generator picks the parts from the tables below, so that people look natural;
every other style is drawn from DiceBear's own seed. Drawing needs the extra `fagan-hf[train]`, inference
does not: the packages are imported when the first avatar is drawn.
"""

import importlib
import io
import json
import re
from bisect import bisect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata, resources
from itertools import accumulate
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from fagan_hf.utils.suggest import suggest

DEFAULT_STYLE = "toon-head"
TRAIN_SEEDS = range(8192)
TEST_SEEDS = range(8192, 10240)

_VERSION = 1  # increment it whenever a table or a line below changes an image
_PACKAGES = ("dicebear-core", "dicebear-styles", "resvg-py")
_ABSENT = "none"
_SMALL = 64  # [pixels] up to this size drawn twice as large and averaged: half the aliasing

Weights = Mapping[str, float]


@dataclass(frozen=True)
class Attribution:
    """Creator and license of a style's drawings. `str()` returns the line to print."""

    title: str
    creator: str
    license_name: str
    license_url: str
    source: str

    def __str__(self) -> str:
        work = f'"{self.title}" ({self.source}) by {self.creator}'
        return f"Adapted from {work}, {self.license_name} ({self.license_url})"


@dataclass(frozen=True)
class _Hairdo:
    """A hairdo: DiceBear's two hair components, how common it is, and what goes with it."""

    front: str | None
    rear: str | None
    weight: float
    beard_rate: float
    dress_rate: float
    zoom: float = 1.24  # relative to the style's own framing: head and hair fill the image
    shift: float = 1.0  # then shifted down by [% of the image height]


# fmt: off
_HAIRDOS = {
    #                        front        rear            weight  beard  dress  zoom  shift
    "side part":     _Hairdo("sideComed", None,            0.19,  0.50,  0.00),
    "undercut":      _Hairdo("undercut",  None,            0.16,  0.55,  0.00),
    "spiky":         _Hairdo("spiky",     None,            0.11,  0.40,  0.00, 1.14, 5.0),
    "bald":          _Hairdo(None,        None,            0.05,  0.65,  0.00),
    "bun":           _Hairdo("bun",       None,            0.11,  0.00,  0.25, 1.04, 7.0),
    "half up":       _Hairdo("bun",       "longWavy",      0.05,  0.00,  0.25, 1.04, 7.0),
    "bob":           _Hairdo("sideComed", "neckHigh",      0.09,  0.00,  0.20),
    "shoulder":      _Hairdo("sideComed", "shoulderHigh",  0.09,  0.04,  0.20),
    "long straight": _Hairdo("sideComed", "longStraight",  0.08,  0.04,  0.20),
    "long wavy":     _Hairdo("sideComed", "longWavy",      0.07,  0.00,  0.20),
}

_SKIN_TONES = {
    "pale":   ("#f6d5bf", 0.18),
    "light":  ("#edbb98", 0.24),
    "medium": ("#d9a07b", 0.20),
    "tan":    ("#b98058", 0.15),
    "brown":  ("#925f42", 0.13),
    "dark":   ("#653f2e", 0.10),
}
_HAIR_COLORS = {
    "black":      "#231a1a",
    "dark brown": "#4a2f22",
    "brown":      "#7a4a2a",
    "red":        "#b4532a",
    "blond":      "#dcb162",
    "gray":       "#b9b6b4",
}
_HAIR_COLORS_OF_SKIN = {
    "pale":   {"black": 0.12, "dark brown": 0.20, "brown": 0.24, "red": 0.14, "blond": 0.22, "gray": 0.08},
    "light":  {"black": 0.18, "dark brown": 0.26, "brown": 0.24, "red": 0.07, "blond": 0.17, "gray": 0.08},
    "medium": {"black": 0.34, "dark brown": 0.32, "brown": 0.22, "blond": 0.05, "gray": 0.07},
    "tan":    {"black": 0.50, "dark brown": 0.34, "brown": 0.10, "gray": 0.06},
    "brown":  {"black": 0.70, "dark brown": 0.24, "gray": 0.06},
    "dark":   {"black": 0.88, "dark brown": 0.06, "gray": 0.06},
}

_BEARDS = {"chin": 0.12, "chinMoustache": 0.20, "fullBeard": 0.40, "longBeard": 0.13, "moustacheTwirl": 0.15}

_MOUTHS = {"smile": 0.42, "laugh": 0.32, "agape": 0.10, "sad": 0.11, "angry": 0.05}
_EYES_OF_MOUTH = {
    "smile": {"wide": 0.40, "happy": 0.32, "humble": 0.10, "bow": 0.10, "wink": 0.08},
    "laugh": {"wide": 0.34, "happy": 0.34, "bow": 0.22, "wink": 0.10},
    "agape": {"wide": 0.60, "happy": 0.40},
    "sad":   {"wide": 0.45, "happy": 0.30, "humble": 0.25},
    "angry": {"wide": 0.60, "happy": 0.40},
}
_EYEBROWS_OF_MOUTH = {
    "smile": {"neutral": 0.50, "happy": 0.25, "raised": 0.25},
    "laugh": {"neutral": 0.40, "happy": 0.40, "raised": 0.20},
    "agape": {"happy": 0.40, "raised": 0.30, "neutral": 0.15, "sad": 0.15},
    "sad":   {"sad": 0.60, "neutral": 0.40},
    "angry": {"angry": 0.80, "sad": 0.20},
}

_CLOTHES = {"tShirt": 0.34, "shirt": 0.26, "turtleNeck": 0.20, "openJacket": 0.20}
_CLOTHES_COLORS = {
    "black":  "#22242a", "navy":   "#23407f", "blue":   "#3b7dd0", "teal": "#1f8a84", "green":  "#3c8b4d",
    "yellow": "#e3b23c", "orange": "#e0742f", "red":    "#bb3236", "pink": "#dc6b97", "purple": "#6f46a8",
    "gray":   "#6c727c", "white":  "#eceae4",
}

# Two neighbors form a gradient. No mixture is close to a skin tone or a hair color, so heads stand out clearly.
_BACKGROUNDS = (
    "#f4b9cf", "#efbfe4", "#d6c2f3", "#bcc5f5", "#a9d4f5", "#a3e0e6", "#a5e3cd", "#bfe6b4", "#e3ecab", "#f6e8a6",
)
# fmt: on

_LABELS: dict[str, tuple[str, ...] | None] = {
    "skin_tone": tuple(_SKIN_TONES),
    "hair_color": tuple(_HAIR_COLORS),
    "hair": tuple(_HAIRDOS),
    "beard": None,
    "eyes": tuple(_EYES_OF_MOUTH["smile"]),
    "eyebrows": ("neutral", "happy", "raised", "sad", "angry"),
    "mouth": tuple(_MOUTHS),
    "clothes": (*_CLOTHES, "dress"),
    "clothes_color": tuple(_CLOTHES_COLORS),
}


def train_seeds(count: int) -> list[int]:
    """Return the seeds of a training split of ``count`` avatars: the first ones that are not in the test split."""
    rest = range(TEST_SEEDS.stop, TEST_SEEDS.stop + max(0, count - len(TRAIN_SEEDS)))
    return [*TRAIN_SEEDS[:count], *rest]


def style_names() -> tuple[str, ...]:
    """List the styles in `dicebear-styles`, sorted.

    Raises ImportError, with what to install, if the package is missing.
    """
    return tuple(sorted(_style_files()))


def attribution(style: str = DEFAULT_STYLE) -> Attribution:
    """Read title, creator, license and source of a style from the style's metadata.

    Raises ValueError for an unknown style.
    """
    meta = _definition(style)["meta"]
    return Attribution(
        title=meta["source"]["name"],
        creator=meta["creator"]["name"],
        license_name=meta["license"]["name"],
        license_url=meta["license"]["url"],
        source=meta["source"]["url"],
    )


def draw_avatar(seed: int, *, style: str = DEFAULT_STYLE, size: int = 128) -> np.ndarray:
    """Draw the portrait of a seed: RGB, uint8 in [0, 255], [size, size, 3].

    Each seed maps to the same portrait at every size and in every process. Raises ValueError for a seed that is not a
    non-negative integer, a size under 8 pixels, or an unknown style; ImportError if a package is missing.
    """
    svg = avatar_svg(seed, style=style)
    size = at_least(8, "size", size)
    if size > _SMALL:
        return rasterize(svg, size)
    return np.array(Image.fromarray(rasterize(svg, 2 * size)).reduce(2))


def avatar_svg(seed: int, *, style: str = DEFAULT_STYLE) -> str:
    """Return the drawing of a seed as an SVG.

    Raises ValueError and ImportError like `draw_avatar`.
    """
    return _avatar(at_least(0, "seed", seed), style).to_string()


def avatar_labels(seed: int, *, style: str = DEFAULT_STYLE) -> dict[str, str | bool]:
    """Return the labels of `draw_avatar(seed, style=style)`; the keys are those of `label_values(style)`.

    For styles other than the default: the variant of each component that can vary, "none" where absent.
    Raises ValueError and ImportError like `draw_avatar`.
    """
    seed = at_least(0, "seed", seed)
    if style == DEFAULT_STYLE:
        return _person(seed)[0]
    shown = _avatar(seed, style).to_json()["options"]
    return {label: shown.get(f"{label}Variant") or _ABSENT for label in label_values(style)}


def label_values(style: str = DEFAULT_STYLE) -> dict[str, tuple[str, ...] | None]:
    """List the possible values of each label of a style; None means boolean.

    Raises ValueError for an unknown style.
    """
    if style == DEFAULT_STYLE:
        return dict(_LABELS)
    components = _definition(style).get("components", {})
    return {
        name: (*component["variants"], _ABSENT)
        for name, component in components.items()
        if len(component.get("variants", ())) > 1
    }


def drawing_version(style: str = DEFAULT_STYLE) -> str:
    """Identify how a style is drawn, for cache keys: it changes whenever images may change.

    Raises ValueError for an unknown style, ImportError if a package is missing.
    """
    _definition(style)
    return "-".join([style, f"v{_VERSION}", *(f"{name}-{_installed(name)}" for name in _PACKAGES)])


# The person: labels, and the corresponding DiceBear options.


class _Dice:
    """Samples from one seeded stream.

    It uses PCG64's uniform numbers only: these are the same in every NumPy version, other methods may change.
    """

    def __init__(self, seed: int) -> None:
        self._uniform = np.random.Generator(np.random.PCG64(seed)).random

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self._uniform())

    def chance(self, probability: float) -> bool:
        return self.between(0, 1) < probability

    def pick(self, weights: Weights) -> str:
        edges = list(accumulate(weights.values()))
        return list(weights)[bisect(edges, self.between(0, edges[-1]), hi=len(edges) - 1)]


def _person(seed: int) -> tuple[dict[str, str | bool], dict[str, Any]]:
    """Choose a person by seed: labels, and the DiceBear options that draw exactly these."""
    dice = _Dice(seed)
    skin_tone = dice.pick({name: weight for name, (_, weight) in _SKIN_TONES.items()})
    hair_color = dice.pick(_HAIR_COLORS_OF_SKIN[skin_tone])
    hair = dice.pick({name: hairdo.weight for name, hairdo in _HAIRDOS.items()})
    hairdo = _HAIRDOS[hair]
    beard = dice.pick(_BEARDS) if dice.chance(hairdo.beard_rate) else None
    mouth = dice.pick(_MOUTHS)
    eyes = dice.pick(_EYES_OF_MOUTH[mouth])
    eyebrows = dice.pick(_EYEBROWS_OF_MOUTH[mouth])
    clothes = dice.pick({**_CLOTHES, "dress": hairdo.dress_rate * (beard is None)})
    clothes_color = dice.pick(dict.fromkeys(_CLOTHES_COLORS, 1.0))
    labels = {
        "skin_tone": skin_tone,
        "hair_color": hair_color,
        "hair": hair,
        "beard": beard is not None,
        "eyes": eyes,
        "eyebrows": eyebrows,
        "mouth": mouth,
        "clothes": clothes,
        "clothes_color": clothes_color,
    }
    options = {
        **_component("hair", hairdo.front),
        **_component("rearHair", hairdo.rear),
        **_component("beard", beard),
        **_component("eyes", eyes),
        **_component("eyebrows", eyebrows),
        **_component("mouth", mouth),
        **_component("clothes", clothes),
        "skinColor": _SKIN_TONES[skin_tone][0],
        "hairColor": _HAIR_COLORS[hair_color],
        "clothesColor": _CLOTHES_COLORS[clothes_color],
        **_framing(dice, hairdo),
        **_background(dice),
    }
    return labels, options


def _component(name: str, variant: str | None) -> dict[str, Any]:
    """Show this variant of a component, or leave the component out."""
    if variant is None:
        return {f"{name}Probability": 0}
    return {f"{name}Probability": 100, f"{name}Variant": variant}


def _framing(dice: _Dice, hairdo: _Hairdo) -> dict[str, Any]:
    """Fill the image with head and hair: shifted, rotated and zoomed slightly, mirrored half of the time."""
    return {
        "scale": hairdo.zoom * dice.between(0.96, 1.04),
        "rotate": dice.between(-5, 5),  # [degrees]
        "translateX": dice.between(-2.5, 2.5),  # [% of the image width]
        "translateY": hairdo.shift + dice.between(-2, 2),
        "flip": "horizontal" if dice.chance(0.5) else "none",
    }


def _background(dice: _Dice) -> dict[str, Any]:
    """Put a soft gradient between two neighboring colors behind the drawing."""
    first = int(dice.between(0, len(_BACKGROUNDS) - 1))
    return {
        "backgroundColor": list(_BACKGROUNDS[first : first + 2]),
        "backgroundColorFill": "linear",
        "backgroundColorOrder": "fixed",
        "backgroundColorAngle": dice.between(0, 360),
    }


# The drawing: DiceBear's definitions, its SVG, and pixels.


def _avatar(seed: int, style: str) -> Any:
    """Have DiceBear draw a seed: our person in the default style, its own choice in any other."""
    options = _person(seed)[1] if style == DEFAULT_STYLE else {}
    return _module("dicebear").Avatar(_style(style), {"seed": str(seed), **options})


def rasterize(svg: str, size: int) -> np.ndarray:
    """Rasterize an SVG, [size, size, 3]; transparent areas become white.

    DiceBear clips to the whole image, which has no effect and takes a third of the time, so the clip is removed.
    Installed fonts don't matter: the styles that write initials find none in a number.
    """
    png = _module("resvg_py").svg_to_bytes(
        svg_string=re.sub(r' clip-path="url\(#clip-[0-9a-f]+\)"', "", svg),
        width=size,
        height=size,
        background="#ffffff",
        skip_system_fonts=True,
    )
    return np.array(Image.open(io.BytesIO(png)).convert("RGB"))


@cache
def _style(name: str) -> Any:
    """Parse a style once per process."""
    return _module("dicebear").Style(_definition(name))


@cache
def _definition(name: str) -> dict[str, Any]:
    files = _style_files()
    if name not in files:
        raise ValueError(f"unknown avatar style {name!r}; {suggest(str(name), files)}")
    return json.loads(files[name].read_text(encoding="utf-8"))


@cache
def _style_files() -> dict[str, Any]:
    folder = resources.files(_module("dicebear_styles"))
    return {file.name.removesuffix(".json"): file for file in folder.iterdir() if file.name.endswith(".json")}


def _module(name: str) -> ModuleType:
    """Import a package of the extra `train` when it is first needed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise _missing(name) from error


def _installed(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError as error:
        raise _missing(distribution) from error


def _missing(name: str) -> ImportError:
    return ImportError(f'drawing avatars needs {name}, which is not installed: pip install "fagan-hf[train]"')


def at_least(minimum: int, name: str, value: Any) -> int:
    """Return a whole number, or raise ValueError if it is not one of at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}")
    return int(value)
