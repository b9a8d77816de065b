"""Positions in feature maps, and of pixels on them."""

from collections.abc import Sequence

import numpy as np

Position = tuple[int, int]


def check_positions(positions: Sequence[Position], height: int, width: int) -> None:
    """Refuse positions that are not a (row, column) inside ``height`` x ``width``.

    Raises:
        ValueError: A position is invalid; says what is allowed.
    """
    for position in positions:
        is_pair = isinstance(position, Sequence) and len(position) == 2
        is_whole = is_pair and all(isinstance(each, int | np.integer) for each in position)
        if not is_whole or not (0 <= position[0] < height and 0 <= position[1] < width):
            raise ValueError(
                f"position is {position!r}; it must be (row, column), whole numbers from (0, 0) to "
                f"({height - 1}, {width - 1})"
            )


def position_on_map(position: Position, image_size: int, height: int, width: int) -> Position:
    """Return the position of a feature map that corresponds to a pixel of the image."""
    return position[0] * height // image_size, position[1] * width // image_size
