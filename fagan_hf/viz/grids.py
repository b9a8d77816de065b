"""Image grids."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from fagan_hf.viz.colors import as_rgb

CAPTION_SHARE = 0.4  # font size of captions, as a fraction of the row height
VISIBLE = 256  # minimum height for comfortable viewing [pixels]
MARGIN = 4  # around captions [pixels]


def image_grid(
    images: UInt8[np.ndarray, "count height width channels"],
    columns: int | None = None,
    captions: Sequence[str] | None = None,
) -> Image.Image:
    """Arrange images in a grid, row by row.

    Args:
        images: At least one, of 1, 3 or 4 channels; shown as RGB, see `fagan_hf.viz.colors.as_rgb`.
        columns: Images per row; by default the grid is roughly square, or wider.
        captions: Caption to the left of each row.

    Returns:
        One image without gaps; unused cells are white.

    Raises:
        ValueError: There are no images, ``columns`` is not positive, or the numbers of captions and rows differ.
    """
    count, height, width, _ = images.shape
    if count == 0 or (columns is not None and columns < 1):
        raise ValueError(f"a grid of {count} images in {columns} columns; it needs at least one of each")
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    if captions is not None and len(captions) != rows:
        raise ValueError(f"{len(captions)} captions for {rows} rows; give one for each")
    grid = np.full((rows * columns, height, width, 3), 255, np.uint8)
    grid[:count] = as_rgb(images)
    grid = grid.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    picture = Image.fromarray(grid.reshape(rows * height, columns * width, 3))
    return picture if captions is None else _with_captions(picture, captions, height)


def enlarged(
    images: UInt8[np.ndarray, "count height width channels"], scale: int | None = None
) -> UInt8[np.ndarray, "count tall wide channels"]:
    """Upscale by repeating pixels, so that small images are visible without smoothing.

    Args:
        images: Of any channels.
        scale: Integer upscaling factor; by default the smallest with which they are at least 256 pixels high.

    Raises:
        ValueError: ``scale`` is not positive.
    """
    scale = math.ceil(VISIBLE / images.shape[1]) if scale is None else scale
    if scale < 1:
        raise ValueError(f"scale is {scale}; it must be a whole number of at least 1")
    return images.repeat(scale, axis=1).repeat(scale, axis=2)


def _with_captions(picture: Image.Image, captions: Sequence[str], height: int) -> Image.Image:
    font = ImageFont.load_default(size=max(9.0, min(CAPTION_SHARE * height, 18.0)))
    widest = math.ceil(max(font.getlength(caption) for caption in captions))
    wide = Image.new("RGB", (picture.width + widest + 2 * MARGIN, picture.height), "white")
    wide.paste(picture, (widest + 2 * MARGIN, 0))
    draw = ImageDraw.Draw(wide)
    for row, caption in enumerate(captions):
        place = (widest + MARGIN, row * height + height / 2)
        draw.text(place, caption, fill="black", font=font, anchor="rm")
    return wide
