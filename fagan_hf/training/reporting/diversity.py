"""How much images differ from each other, at a glance."""

import numpy as np
import torch
from jaxtyping import UInt8
from torch.nn import functional

SIZE = 8  # images are compared as thumbnails of this many pixels a side
QUANTILE = 0.25  # if more than half of the images look alike, more than a quarter of all pairs do


def diversity(images: UInt8[np.ndarray, "count channels height width"]) -> float:
    """Return the distance between two of the images that look alike: the lower quartile over all pairs.

    The variance of pixels, and the mean of distances, stay high when a few images differ and all the others are the
    same.

    Args:
        images: At least two, of any size and channels.

    Returns:
        Root mean square difference of thumbnails, in [0, 255].

    Raises:
        ValueError: There are fewer than two images.
    """
    if len(images) < 2:
        raise ValueError(f"there are {len(images)} images; at least two are needed to compare them")
    thumbnails = functional.adaptive_avg_pool2d(torch.from_numpy(images).float(), SIZE).flatten(1)
    distances = torch.pdist(thumbnails) / thumbnails.shape[1] ** 0.5
    return distances.quantile(QUANTILE).item()
