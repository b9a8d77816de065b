"""Positions in feature maps, by pixel and by head."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Position = tuple[int, int]


def heads_last(feature_map: Tensor, heads: int) -> Float[Tensor, "batch heads positions channels"]:
    """Arrange a query or key for a product over channels, in single precision at least."""
    dtype = torch.promote_types(feature_map.dtype, torch.float32)
    return feature_map.to(dtype).flatten(2).unflatten(1, (heads, -1)).mT.contiguous()


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
