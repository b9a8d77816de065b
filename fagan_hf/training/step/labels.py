"""Labels of a run: those of the data, and wrong ones on purpose."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


class Mismatcher:
    """Finds labels that an image does not have.

    A matching-aware discriminator (Reed et al., arXiv:1605.05396) also learns that a real image under wrong labels is
    not real. The original takes its wrong labels from rows of the same batch, some of which are right; these never are.

    Args:
        labels: All label vectors of the data set.

    Raises:
        ValueError: All images have the same labels, so none can be wrong.
    """

    def __init__(self, labels: Float[np.ndarray, "images num_labels"]):
        self.kinds, self._kind_of, self._counts = np.unique(labels, axis=0, return_inverse=True, return_counts=True)
        if len(self.kinds) < 2:
            raise ValueError(
                "matching_aware is true, but all images have the same labels; it needs images that differ in them"
            )
        self._starts = np.cumsum(self._counts) - self._counts

    def draw(self, indices: np.ndarray, draws: Float[np.ndarray, " batch"]) -> Float[Tensor, "batch num_labels"]:
        """Draw labels of other images, as often as they come among those that have different labels.

        Args:
            indices: Of the images.
            draws: A number in [0, 1) for each.
        """
        kinds = self._kind_of[indices]
        # All images in the order of their kinds, those of the own kind left out.
        others = self._counts.sum() - self._counts[kinds]
        positions = (draws * others).astype(np.int64)
        positions += np.where(positions >= self._starts[kinds], self._counts[kinds], 0)
        drawn = np.searchsorted(self._starts, positions, side="right") - 1
        return torch.from_numpy(self.kinds[drawn])
