"""Labels of a conditional network: input checks, and label frequencies."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fagan_hf.utils.label_names import is_binary, label_groups


def check_labels(labels: Tensor | None, names: tuple[str, ...], batch: int) -> Tensor | None:
    """Return labels that match a config, and refuse others.

    Args:
        labels: ``[batch, len(names)]``, or none for an unconditional network.
        names: The config's `label_names`.
        batch: Batch size.

    Raises:
        ValueError: They are missing, not accepted, or of another shape.
    """
    if labels is None and not names:
        return None
    if labels is None or labels.shape != (batch, len(names)):
        got = "missing" if labels is None else f"{list(labels.shape)}"
        wanted = f"[{batch}, {len(names)}], a column for each of {', '.join(names)}" if names else "left out"
        raise ValueError(f"labels are {got}; they must be {wanted}")
    return labels


def check_label_range(labels: Tensor) -> None:
    """Refuse label values outside the training range; this synchronizes with the labels' device.

    Raises:
        ValueError: A value is not from 0 to 1.
    """
    if not ((labels >= 0) & (labels <= 1)).all():
        raise ValueError(
            f"labels are from {labels.min().item():g} to {labels.max().item():g}; each must be from 0 (false) to 1 "
            "(true)"
        )


def even_frequencies(names: Sequence[str]) -> Float[Tensor, " num_labels"]:
    """Return default label frequencies: one half for binary attributes, equal ones for classes."""
    frequencies = torch.empty(len(names))
    for places in label_groups(names).values():
        frequencies[places] = 0.5 if is_binary(names, places) else 1 / len(places)
    return frequencies
