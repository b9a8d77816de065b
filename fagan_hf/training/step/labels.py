"""Mismatched labels for a matching-aware discriminator."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


class Mismatcher:
    """Samples labels that an image does not have.

    A matching-aware discriminator (Reed et al., arXiv:1605.05396) also learns to reject real images with wrong labels.
    The original takes wrong labels from other rows of the batch, some of which happen to be right; these never are.

    Args:
        labels: All label vectors of the dataset.

    Raises:
        ValueError: All images have the same labels, so none can be wrong.
    """

    def __init__(self, labels: Float[np.ndarray, "images num_labels"]):
        self.kinds, self._kind_of, self._counts = np.unique(labels, axis=0, return_inverse=True, return_counts=True)
        if len(self.kinds) < 2:
            raise ValueError(
                "matching_aware is true, but all images have the same labels; it needs images with different labels"
            )
        self._starts = np.cumsum(self._counts) - self._counts

    def draw(self, indices: np.ndarray, draws: Float[np.ndarray, " batch"]) -> Float[Tensor, "batch num_labels"]:
        """Sample labels of other images, with their frequencies among the images with different labels.

        Args:
            indices: Indices of the images.
            draws: A random number in [0, 1) for each.
        """
        kinds = self._kind_of[indices]
        # Index into all images sorted by label vector, skipping those with the image's own.
        others = self._counts.sum() - self._counts[kinds]
        positions = (draws * others).astype(np.int64)
        positions += np.where(positions >= self._starts[kinds], self._counts[kinds], 0)
        drawn = np.searchsorted(self._starts, positions, side="right") - 1
        return torch.from_numpy(self.kinds[drawn])
