"""Decode one image file: anything that Pillow reads becomes an upright square of the model's resolution.

Colors are converted to sRGB by the file's color profile; of an animation the first frame is read. A truncated file is
an error: a half-gray face must not become training data.
"""

import io
import re
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageCms, ImageColor, ImageOps, UnidentifiedImageError

from fagan_hf.data.archives import Member, UnreadableMemberError

# Increment it with every change to this file that alters a pixel.
PREPROCESSING_VERSION = 2

Fit = Literal["crop", "pad", "stretch"]

# Pillow registers these too, but they start other programs (Ghostscript) or have no built-in decoder.
_NOT_IMAGES = {"EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF"}


class UnusableImageError(ValueError):
    """An image can't be used; the message says why, and `hint` what to do about it.

    Attributes:
        hint: What to do.
        is_lasting: Whether the same bytes will never be usable; otherwise the file could not be read this time.
    """

    def __init__(self, message: str, hint: str, is_lasting: bool = True):
        super().__init__(message, hint, is_lasting)
        self.hint = hint
        self.is_lasting = is_lasting

    def __str__(self) -> str:
        return self.args[0]


@cache
def readable_formats() -> tuple[str, ...]:
    """List the formats that this Pillow decodes without external programs."""
    Image.init()
    register_heif()
    return tuple(sorted(set(Image.OPEN) - _NOT_IMAGES))


@cache
def image_suffixes() -> frozenset[str]:
    """List the file suffixes of `readable_formats`, in lower case with the dot."""
    formats = {*readable_formats(), "MPO"}  # several JPEGs in one file: opened by the JPEG reader
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def register_heif() -> bool:
    """Let Pillow read HEIC and HEIF if `pillow-heif`, the extra `heic`, is installed; return whether it does."""
    try:
        import_module("pillow_heif").register_heif_opener()
    except ImportError:
        return False
    return True


def check_background(color: str) -> tuple[int, int, int]:
    """Return the levels of a background color: `white`, `black`, or `#rrggbb`.

    Raises:
        ValueError: It is none of these.
    """
    if color not in ("white", "black") and not re.fullmatch(r"#[0-9a-fA-F]{6}", color):
        raise ValueError(f"background is {color!r}; it must be white, black, or a color like #ffcc00")
    red, green, blue = ImageColor.getrgb(color)[:3]
    return red, green, blue


def decode_image(
    content: Path | bytes | Member,
    *,
    resolution: int,
    crop: int | None = None,
    fit: Fit = "crop",
    background: str = "white",
    channels: int = 3,
    upscale: bool = False,
    formats: tuple[str, ...] | None = None,
) -> np.ndarray:
    """Read an image file, or the bytes of one, as an upright square in sRGB.

    Args:
        content: Path of the file, its contents, or a member of an archive.
        resolution: Side of the result in pixels.
        crop: Side in pixels of the center square that is kept; `None` keeps the largest. Only with `fit` "crop".
        fit: How other shapes become a square: "crop" keeps the center, "pad" adds bars of the background color,
            "stretch" changes the aspect ratio.
        background: Color behind transparent pixels and of added bars: `white`, `black` or `#rrggbb`.
        channels: 1 for grayscale, 3 for RGB, 4 for RGBA with premultiplied alpha, whose bars are transparent.
        upscale: Whether an image smaller than `resolution` is enlarged instead of refused.
        formats: Pillow's names of the formats to recognize; `None` for all of `readable_formats`.

    Returns:
        uint8 [channels, resolution, resolution].

    Raises:
        UnusableImageError: The content is not an image, is damaged, or is too small.
    """
    color = check_background(background)
    try:
        file = content.read() if isinstance(content, Member) else content
        formats = readable_formats() if formats is None else formats
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=formats) as image:
            check_size(image.size, resolution=resolution, crop=crop, fit=fit, upscale=upscale)
            ImageOps.exif_transpose(image, in_place=True)
            square = _center(image, crop) if fit == "crop" else image
            return _fitted(_in_channels(square, channels, color), resolution, fit, color)
    except UnusableImageError:
        raise
    except UnreadableMemberError as error:
        raise UnusableImageError(str(error), "Repack the archive without the members that can't be read.") from error
    except UnidentifiedImageError as error:
        raise UnusableImageError("is not an image", "Remove or replace the files that are not images.") from error
    except Image.DecompressionBombError as error:
        raise UnusableImageError(
            f"is too large to be decoded safely ({error})", "Shrink the largest images first."
        ) from error
    except Exception as error:  # for damaged files Pillow raises nearly anything
        message = f"can't be decoded ({type(error).__name__}: {error})"
        is_lasting = not isinstance(error, MemoryError) and getattr(error, "errno", None) is None
        raise UnusableImageError(message, "Replace or remove the damaged images.", is_lasting) from error


def check_size(
    size: tuple[int, int], *, resolution: int, crop: int | None = None, fit: Fit = "crop", upscale: bool = False
) -> None:
    """Refuse an image that is too small for the square, before decoding it.

    Raises:
        UnusableImageError: The image is smaller than `crop`, or than `resolution` while `upscale` is off.
    """
    width, height = size
    if crop is not None and min(size) < crop:
        raise UnusableImageError(
            f"has {width}x{height} pixels, too few to crop {crop}x{crop}",
            "Use a smaller `--crop`, or leave it out to keep the largest center square.",
        )
    # With bars, the longer side becomes the square's.
    if (max(size) if fit == "pad" else min(size)) < resolution and not upscale:
        raise UnusableImageError(
            f"has {width}x{height} pixels, fewer than the target of {resolution}x{resolution}",
            "Use `--upscale true` to enlarge small images, or a model with a smaller resolution.",
        )


def to_rgb(image: Image.Image, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """Convert any mode to sRGB: transparency becomes the background, 16-bit gray and floats in [0, 1] are scaled."""
    image = _to_srgb(_to_8_bits(image))
    if image.has_transparency_data:
        behind = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(behind, image.convert("RGBA"))
    return image.convert("RGB")


def _in_channels(image: Image.Image, channels: int, background: tuple[int, int, int]) -> Image.Image:
    if channels == 4:
        return _to_srgb(_to_8_bits(image)).convert("RGBA").convert("RGBa")  # premultiplied, as Pillow resizes
    rgb = to_rgb(image, background)
    return rgb.convert("L") if channels == 1 else rgb


def _to_8_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit PNG, TIFF and PGM
        return _gray(np.asarray(image), white=65535)
    if image.mode == "F":
        return _gray(np.asarray(image), white=1)
    return image


def _gray(values: np.ndarray, white: int) -> Image.Image:
    """Scale values in [0, white] to gray: the range is not guessed, since a guess would vary between images."""
    if not (values.min() >= 0 and values.max() <= white):  # a NaN is refused too
        raise ValueError(f"gray values are from {values.min()} to {values.max()}; they must be from 0 to {white}")
    return Image.fromarray(np.rint(values / white * 255).astype(np.uint8)).convert("RGB")


def _to_srgb(image: Image.Image) -> Image.Image:
    """Apply the color profile of an image; a broken one is ignored, as browsers do."""
    profile = image.info.get("icc_profile")
    base = {"RGBA": "RGB", "RGBX": "RGB", "P": "RGB", "LA": "L"}.get(image.mode, image.mode)
    if not isinstance(profile, bytes) or base not in ("RGB", "L", "CMYK"):
        return image
    transform = _profile_transform(profile, base)
    if transform is None:
        return image
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    converted = ImageCms.applyTransform(image.convert(base), transform)
    assert converted is not None, "only in-place transforms return nothing"
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


@lru_cache(maxsize=64)  # all images of a camera share one
def _profile_transform(profile: bytes, mode: str) -> Any:
    """Build the transform from a profile to sRGB; none if the profile is sRGB already, or broken."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _center(image: Image.Image, crop: int | None) -> Image.Image:
    """Cut out the center square: before the conversion, which takes memory for whatever is left."""
    side = crop or min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _fitted(image: Image.Image, resolution: int, fit: Fit, background: tuple[int, int, int]) -> np.ndarray:
    """Resize an image with an antialiasing Lanczos filter to a square: uint8 [channels, resolution, resolution]."""
    size = (resolution, resolution)
    if fit == "pad":
        scale = resolution / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=None)
    if size != (resolution, resolution):
        color = {"L": ImageColor.getcolor("#{:02x}{:02x}{:02x}".format(*background), "L"), "RGB": background}
        square = Image.new(image.mode, (resolution, resolution), color.get(image.mode, 0))
        square.paste(image, ((resolution - size[0]) // 2, (resolution - size[1]) // 2))
        image = square
    pixels = np.asarray(image)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))
