"""Labels of a conditional network: checked where they come in, and how often each holds."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fagan_hf.utils.label_names import is_binary, label_groups


def check_labels(labels: Tensor | None, names: tuple[str, ...], batch: int) -> Tensor | None:
    """Let labels pass that fit a config.

    Args:
        labels: ``[batch, len(names)]``, or none for an unconditional network.
        names: The config's `label_names`.
        batch: Length of the batch that they belong to.

    Raises:
        ValueError: They are missing, not wanted, or of another shape.
    """
    if labels is None and not names:
        return None
    if labels is None or labels.shape != (batch, len(names)):
        got = "missing" if labels is None else f"{list(labels.shape)}"
        wanted = f"[{batch}, {len(names)}], a column for each of {', '.join(names)}" if names else "left out"
        raise ValueError(f"labels are {got}; they must be {wanted}")
    return labels


def check_label_range(labels: Tensor) -> None:
    """Refuse numbers that no label has been trained with; it waits for the labels' device.

    Raises:
        ValueError: One is not from 0 to 1.
    """
    if not ((labels >= 0) & (labels <= 1)).all():
        raise ValueError(
            f"labels go from {labels.min().item():g} to {labels.max().item():g}; each must be from 0, it does not "
            "hold, to 1, it holds"
        )


def even_frequencies(names: Sequence[str]) -> Float[Tensor, " num_labels"]:
    """Say how often each label holds where nothing is known: claims half of the time, classes equally often."""
    frequencies = torch.empty(len(names))
    for places in label_groups(names).values():
        frequencies[places] = 0.5 if is_binary(names, places) else 1 / len(places)
    return frequencies
