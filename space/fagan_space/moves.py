"""Moving pictures along the model's directions: the sliders, and the latents they stand for."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import gradio as gr
from jaxtyping import Float
from torch import Tensor

from fagan_space.controls import chosen_labels
from fagan_space.models import Model
from fagan_space.words import dragged_words, name_words

MAX_DIRECTIONS = 8
REACH = 4.0


def strongest(model: Model) -> list[str]:
    """Return the directions to offer: the best-correlated one of each label, then each label's second best, ..."""
    if model.directions is None:
        return []
    ranked = sorted(zip(model.directions.correlations, model.directions.names, strict=True), reverse=True)
    by_label: dict[str, list[str]] = {}
    for _, name in ranked:
        by_label.setdefault(name.partition("=")[0], []).append(name)
    rounds = zip_longest(*by_label.values())
    return [name for each in rounds for name in each if name is not None][:MAX_DIRECTIONS]


def direction_sliders(model: Model) -> list[gr.Slider]:
    """Make a slider for each of the `strongest` directions."""
    return [gr.Slider(-REACH, REACH, 0.0, step=0.25, label=name_words(name)) for name in strongest(model)]


def read_moves(model: Model, values: Sequence[Any]) -> tuple[dict[str, float], dict[str, Any]]:
    """Split the values of `direction_sliders` and `label_dropdowns` into strengths other than 0, and labels.

    Raises:
        ValueError: A strength is text, or there are more or fewer labels than the model has.
    """
    names = strongest(model)
    strengths = {name: value for name, value in zip(names, values, strict=False) if value}
    if not all(isinstance(value, float) for value in strengths.values()):
        raise ValueError("the strength of a direction is text; it must be a number")
    return strengths, chosen_labels(model, values[len(names) :])


def moved(
    model: Model, latents: Float[Tensor, "count latent_dim"], strengths: Mapping[str, float]
) -> Float[Tensor, "count latent_dim"]:
    """Move latents along the model's directions.

    Raises:
        ValueError: The model has no such direction.
    """
    if not strengths:
        return latents
    if model.directions is None:
        raise ValueError(f"{model.shown} has no directions; create them with `fagan-hf directions`")
    return model.directions.move(latents, dict(strengths))


def drag_note(model: Model, strengths: Mapping[str, float]) -> str:
    """Say which directions the chosen ones drag along; empty if none."""
    return "" if model.directions is None else dragged_words(model.directions, [*strengths])
