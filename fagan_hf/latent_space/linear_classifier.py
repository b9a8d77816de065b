"""Linear classification of labels from pixels: no network to download, and a single equation to solve."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

RIDGE = 10.0  # compared with a mean square of pixels of about 0.1, summed over thousands of images
LARGEST = 32
"""Size that larger images are downsampled to [pixels]: the number of unknowns is three times its square."""

_IMAGES_AT_ONCE = 1024


class LinearClassifier:
    """Ridge regression from pixels to labels.

    Args:
        images: Training images, square, uint8.
        labels: Their labels, 0 or 1.

    Attributes:
        size: Height and width that images are downsampled to [pixels].
    """

    def __init__(
        self, images: UInt8[np.ndarray, "images channels size size"], labels: Float[np.ndarray, "images num_labels"]
    ):
        self.size = min(LARGEST, images.shape[-1])
        unknowns = images.shape[1] * self.size**2 + 1
        products = RIDGE * torch.eye(unknowns, dtype=torch.float64)
        targets = torch.zeros(unknowns, labels.shape[1], dtype=torch.float64)
        for start in range(0, len(images), _IMAGES_AT_ONCE):
            rows = slice(start, start + _IMAGES_AT_ONCE)
            pixels = self._pixels(images[rows])
            products += pixels.T @ pixels
            targets += pixels.T @ torch.from_numpy(labels[rows]).double()
        self._weights = torch.linalg.solve(products, targets)

    def scores(self, images: UInt8[np.ndarray, "images channels size size"]) -> Float[Tensor, "images num_labels"]:
        """Return scores: about 1 if a label is true and about 0 if it is not."""
        parts = [
            self._pixels(images[start : start + _IMAGES_AT_ONCE]) @ self._weights
            for start in range(0, len(images), _IMAGES_AT_ONCE)
        ]
        return torch.cat(parts)

    def _pixels(self, images: UInt8[np.ndarray, "images channels size size"]) -> Float[Tensor, "images pixels_and_one"]:
        pixels = torch.from_numpy(images / 255)
        pixels = functional.adaptive_avg_pool2d(pixels, self.size).flatten(1)
        return torch.cat([pixels, pixels.new_ones(len(pixels), 1)], dim=1)
