"""Say which part of a drawn portrait each pixel shows, exactly: the drawing's own shapes, each part in one color.

DiceBear's SVG of a `toon-head` has a group for each component. Painted opaquely in one color for each part, without
antialiasing, it is a segmentation of the picture, which photographs lack.
"""

from xml.etree import ElementTree

import numpy as np
from jaxtyping import Bool, UInt8

from fagan_hf.data import avatars
from fagan_hf.data.image_source import ImageSource
from fagan_hf.data.sources import avatar_seeds

PARTS = ("background", "skin", "clothes", "mouth", "eyes", "hair")
"""The parts of a portrait; every pixel shows one of them."""
_PARTS_OF_COMPONENTS = {
    "body": "skin",
    "head": "skin",
    "clothes": "clothes",
    "mouth": "mouth",
    "eyes": "eyes",
    "hair": "hair",
    "rearHair": "hair",
    "beard": "hair",
    "eyebrows": "hair",
}
_FINER = 4  # a pixel shows the part that most of its 4x4 parts show
_SVG = "http://www.w3.org/2000/svg"


def avatar_parts(
    seed: int, *, style: str = avatars.DEFAULT_STYLE, size: int = 128
) -> dict[str, Bool[np.ndarray, "size size"]]:
    """Return the masks of `draw_avatar(seed, style=style, size=size)`, one for each of `PARTS`.

    Each pixel is in exactly one of them: the one whose shapes cover most of it. Eyebrows and beards are hair; ears,
    nose and neck are skin. A part may be hidden, and its mask empty.

    Raises:
        ValueError: The style has no parts that we know, or is unknown; or seed or size are those that `draw_avatar`
            refuses.
        ImportError: A package for drawing is missing.
    """
    _check_style(style)
    size = avatars.at_least(8, "size", size)
    svg = _painted(avatars.avatar_svg(seed))
    colors = avatars.rasterize(svg, _FINER * size)[..., 0]
    found = np.stack([(colors == index).reshape(size, _FINER, size, _FINER).sum((1, 3)) for index in range(len(PARTS))])
    largest = found.argmax(0)
    return {part: largest == index for index, part in enumerate(PARTS)}


def source_parts(source: ImageSource, count: int | None = None) -> UInt8[np.ndarray, "count size size"]:
    """Return the parts of prepared avatars, as indices in `PARTS`, in the order of `prepare_images(source)`.

    Args:
        source: Avatars of the default style.
        count: Number of images, the first ones; by default all.

    Raises:
        ValueError: The images are not such avatars, so their parts are not known; or there are fewer than ``count``.
        ImportError: A package for drawing is missing.
    """
    name, _, style = source.dataset.partition(":")
    if name != "avatars":
        raise ValueError(
            f"the parts of {source.dataset!r} are not known: only drawn avatars say which pixels are hair or skin. "
            "Use the dataset 'avatars'"
        )
    _check_style(style or avatars.DEFAULT_STYLE)
    seeds = avatar_seeds(source)
    if count is not None and not 1 <= count <= len(seeds):
        raise ValueError(f"count is {count}; there are {len(seeds):,} avatars in split {source.split!r}")
    parts = (avatar_parts(seed, size=source.resolution) for seed in seeds[:count])
    return np.stack([np.stack([*masks.values()]).argmax(0).astype(np.uint8) for masks in parts])


def _check_style(style: str) -> None:
    if style != avatars.DEFAULT_STYLE:
        avatars.attribution(style)  # refuses unknown styles
        raise ValueError(f"the parts of style {style!r} are not known, only those of {avatars.DEFAULT_STYLE!r}")


def _painted(svg: str) -> str:
    """Paint the shapes of each component in the color of its part, whose red is the part's index."""
    root = ElementTree.fromstring(svg)
    root.set("shape-rendering", "crispEdges")
    for element in root.iter():
        if element.get("fill", "").startswith("url("):
            element.set("fill", _color("background"))
    for group in root.iterfind(f"{{{_SVG}}}defs/{{{_SVG}}}g"):
        color = _color(_PARTS_OF_COMPONENTS[group.get("id", "").partition("-")[0]])
        for element in group.iter():
            element.attrib.pop("fill-opacity", None)
            for name in ("fill", "stroke"):
                if element.get(name, "none") != "none":
                    element.set(name, color)
    ElementTree.register_namespace("", _SVG)
    return ElementTree.tostring(root, encoding="unicode")


def _color(part: str) -> str:
    return f"#{PARTS.index(part):02x}0000"
