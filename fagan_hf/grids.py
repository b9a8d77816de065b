"""Pictures side by side."""

import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def image_grid(images: UInt8[np.ndarray, "count height width 3"], columns: int | None = None) -> Image.Image:
    """Lay images out row by row.

    Args:
        images: RGB, at least one.
        columns: Images in a row; by default as many as make the grid closest to a square, or wider.

    Returns:
        One picture without gaps; places that no image fills are white.

    Raises:
        ValueError: There are no images, or ``columns`` is not positive.
    """
    count, height, width, _ = images.shape
    if count == 0 or (columns is not None and columns < 1):
        raise ValueError(f"a grid of {count} images in {columns} columns; it needs at least one of each")
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    grid = np.full((rows * columns, height, width, 3), 255, np.uint8)
    grid[:count] = images
    grid = grid.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    return Image.fromarray(grid.reshape(rows * height, columns * width, 3))
