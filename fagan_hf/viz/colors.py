"""Show images of 1, 3 or 4 channels: grayscale, RGB, and RGBA with premultiplied alpha."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def as_rgb(pixels: UInt8[np.ndarray, "*any channels"], background: int = 255) -> UInt8[np.ndarray, "*any 3"]:
    """Convert images to RGB as they are shown: gray in three channels, transparency over a background.

    Args:
        pixels: Channels last: 1 for grayscale, 3 for RGB (returned unchanged), 4 for RGBA with premultiplied alpha.
        background: Gray level behind transparent pixels, from 0 to 255; white by default.

    Raises:
        ValueError: Another number of channels.
    """
    channels = pixels.shape[-1]
    if channels == 3:
        return pixels
    if channels == 1:
        return np.repeat(pixels, 3, axis=-1)
    if channels != 4:
        raise ValueError(f"images have {channels} channels; they must have 1, 3 or 4")
    behind = (255 - pixels[..., 3:].astype(np.uint32)) * background // 255
    return np.minimum(pixels[..., :3] + behind, 255).astype(np.uint8)


def rgb_planes(pixels: UInt8[np.ndarray, "count channels height width"]) -> UInt8[np.ndarray, "count 3 height width"]:
    """Convert images with channels first to RGB, as `as_rgb` does."""
    return pixels if pixels.shape[1] == 3 else as_rgb(pixels.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def as_picture(pixels: UInt8[np.ndarray, "height width channels"]) -> Image.Image:
    """Convert an image to PIL's: mode L, RGB, or RGBA with straight alpha, as files store it."""
    if pixels.shape[-1] == 1:
        return Image.fromarray(pixels[..., 0])
    return Image.fromarray(straight_alpha(pixels) if pixels.shape[-1] == 4 else pixels)


def straight_alpha(pixels: UInt8[np.ndarray, "*any 4"]) -> UInt8[np.ndarray, "*any 4"]:
    """Divide premultiplied colors by alpha; colors of fully transparent pixels are 0."""
    alpha = pixels[..., 3:].astype(np.float32)
    color = pixels[..., :3].astype(np.float32)
    color = np.divide(255 * color, alpha, out=np.zeros_like(color), where=alpha > 0)
    return np.concatenate([color.round().clip(0, 255).astype(np.uint8), pixels[..., 3:]], axis=-1)
