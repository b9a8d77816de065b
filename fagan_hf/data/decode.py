"""Decode one image file: anything that Pillow reads becomes an upright RGB square of the model's resolution.

Color profiles are ignored, as in the published preprocessing of CelebA and similar datasets; of an animation
the first frame is read. A truncated file is an error: a half-gray face must not become training data.
"""

import io
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Increment it with every change to this file that alters a pixel.
PREPROCESSING_VERSION = 1

# Pillow registers these too, but they start other programs (Ghostscript) or have no built-in decoder.
_NOT_IMAGES = {"EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF"}


class UnusableImageError(ValueError):
    """An image can't be used; the message says why, and `hint` what to do about it."""

    def __init__(self, message: str, hint: str):
        super().__init__(message, hint)
        self.hint = hint

    def __str__(self) -> str:
        return self.args[0]


@cache
def readable_formats() -> tuple[str, ...]:
    """List the formats that this Pillow decodes without external programs."""
    Image.init()
    return tuple(sorted(set(Image.OPEN) - _NOT_IMAGES))


@cache
def image_suffixes() -> frozenset[str]:
    """List the file suffixes of `readable_formats`, in lower case with the dot."""
    formats = {*readable_formats(), "MPO"}  # several JPEGs in one file: opened by the JPEG reader
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def decode_image(content: Path | bytes, *, resolution: int, crop: int | None, upscale: bool) -> np.ndarray:
    """Read an image file, or the bytes of one, as an upright RGB square.

    Args:
        content: Path of the file, or its contents.
        resolution: Side of the result in pixels.
        crop: Side in pixels of the center square that is kept; `None` keeps the largest.
        upscale: Whether a square smaller than `resolution` is enlarged instead of refused.

    Returns:
        uint8 [3, resolution, resolution].

    Raises:
        UnusableImageError: The content is not an image, is damaged, or is too small.
    """
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    try:
        with Image.open(file, formats=readable_formats()) as image:
            check_size(image.size, resolution=resolution, crop=crop, upscale=upscale)
            ImageOps.exif_transpose(image, in_place=True)
            return _resized(to_rgb(_center(image, crop)), resolution)
    except UnusableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnusableImageError("is not an image", "Remove or replace the files that are not images.") from error
    except Image.DecompressionBombError as error:
        raise UnusableImageError(
            f"is too large to be decoded safely ({error})", "Shrink the largest images first."
        ) from error
    except Exception as error:  # for damaged files Pillow raises nearly anything
        message = f"can't be decoded ({type(error).__name__}: {error})"
        raise UnusableImageError(message, "Replace or remove the damaged images.") from error


def check_size(size: tuple[int, int], *, resolution: int, crop: int | None, upscale: bool) -> None:
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
    if min(size) < resolution and not upscale:
        raise UnusableImageError(
            f"has {width}x{height} pixels, fewer than the target of {resolution}x{resolution}",
            "Use `--upscale true` to enlarge small images, or a model with a smaller resolution.",
        )


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB: transparency becomes white, 16-bit gray and floats in [0, 1] are scaled."""
    if image.mode.startswith("I"):  # 16-bit PNG, TIFF and PGM
        return _gray(np.asarray(image), white=65535)
    if image.mode == "F":
        return _gray(np.asarray(image), white=1)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _gray(values: np.ndarray, white: int) -> Image.Image:
    """Scale values in [0, white] to gray: the range is not guessed, since a guess would vary between images."""
    if not (values.min() >= 0 and values.max() <= white):  # a NaN is refused too
        raise ValueError(f"gray values are from {values.min()} to {values.max()}; they must be from 0 to {white}")
    return Image.fromarray(np.rint(values / white * 255).astype(np.uint8)).convert("RGB")


def _center(image: Image.Image, crop: int | None) -> Image.Image:
    """Cut out the center square: before the conversion, which takes memory for whatever is left."""
    side = crop or min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _resized(image: Image.Image, resolution: int) -> np.ndarray:
    """Resize a square RGB image with an antialiasing Lanczos filter: uint8 [3, resolution, resolution]."""
    if image.width != resolution:
        image = image.resize((resolution, resolution), Image.Resampling.LANCZOS, reducing_gap=None)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
