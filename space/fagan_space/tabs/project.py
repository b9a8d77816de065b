"""Projection of an image to its latent, and edits along the model's directions."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import gradio as gr
import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from fagan_hf.latent_space.projection import project
from fagan_hf.sampling.images import generate_images
from fagan_hf.sampling.labels import encode_labels
from fagan_hf.viz.colors import as_picture
from fagan_hf.viz.grids import enlarged, image_grid
from fagan_space.border import MoveTab, ProjectTab, takes
from fagan_space.controls import COMPUTES, COMPUTES_LONG, chosen_labels, label_dropdowns, picture_shown
from fagan_space.gpu import on_gpu
from fagan_space.limits import MAX_STEPS
from fagan_space.models import Model
from fagan_space.uploads import NO_PICTURE, Picture, example_gallery, on_picture, upload_box
from fagan_space.work import check_wanted

TITLE = "Project"
MAX_DIRECTIONS = 8
REACH = 4.0
_REMEMBERED = 600  # [seconds]


@dataclass(frozen=True, eq=False)
class Found:
    """Result of a projection.

    Attributes:
        latents: The image's latent.
        labels: The labels used, for a conditional model.
        distance: Mean squared error of the reconstruction, for pixels in [-1, 1].
        comparison: Image and reconstruction side by side.
    """

    latents: Float[Tensor, "1 latent_dim"]
    labels: Float[Tensor, "1 num_labels"] | None
    distance: float
    comparison: Image.Image


@on_gpu
def find(
    model: Model,
    picture: Picture,
    *,
    steps: int = 100,
    labels: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Found:
    """Find the latent whose generated image is closest to the given one.

    Raises:
        ValueError: ``steps`` is less than 1 or more than `MAX_STEPS`.
    """
    if not 1 <= steps <= MAX_STEPS:
        raise ValueError(f"steps is {steps}; it must be from 1 to {MAX_STEPS}")
    found = project(
        model.generator,
        torch.from_numpy(picture).float() / 127.5 - 1,
        discriminator=model.discriminator,
        labels=dict(labels) if labels else None,
        steps=steps,
        progress=progress,
        on_step=check_wanted,
    )
    both = image_grid(enlarged(np.stack([picture.transpose(1, 2, 0), found.reconstruction])), columns=2)
    return Found(found.latents, found.labels, found.distance, both)


@on_gpu
def edit(
    model: Model,
    found: Found,
    strengths: Mapping[str, float] | None = None,
    labels: Mapping[str, Any] | None = None,
) -> UInt8[np.ndarray, "height width channels"]:
    """Generate the projected image, moved along directions or with other labels.

    Raises:
        ValueError: The model has no such direction or label.
    """
    latents, vectors = found.latents, found.labels
    if strengths:
        if model.directions is None:
            raise ValueError(f"{model.shown} has no directions; create them with `fagan-hf directions`")
        latents = model.directions.move(latents, dict(strengths))
    if labels and vectors is not None:
        vectors = vectors.clone()
        for place, number in encode_labels(model.generator.config.label_names, labels).items():
            vectors[0, place] = number
    return generate_images(model.generator, latents, vectors, progress=False)[0]


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


def build(model: Model) -> None:
    """Build the tab."""
    names = strongest(model)

    @takes(ProjectTab)
    def search(
        picture: Picture,
        steps: int,
        *chosen: str,
        progress: gr.Progress = gr.Progress(track_tqdm=True),  # noqa: B008  # how Gradio functions request one
    ) -> Any:
        found = find(model, picture, steps=int(steps), labels=chosen_labels(model, chosen), progress=True)
        words = (
            f"Mean squared error {found.distance:.4f} (pixels in [-1, 1]). What the model has not learned can't be "
            "reconstructed."
        )
        return found, found.comparison, words, _shown(edit(model, found)), *([0.0] * len(names))

    @takes(MoveTab)
    def move(found: Found | None, *values: Any) -> Image.Image:
        if found is None:
            raise ValueError(NO_PICTURE)
        strengths = {name: value for name, value in zip(names, values, strict=False) if value}
        if not all(isinstance(value, float) for value in strengths.values()):
            raise ValueError("the strength of a direction is text; it must be a number")
        return _shown(edit(model, found, strengths, chosen_labels(model, values[len(names) :])))

    taken, state = (gr.State(None, time_to_live=_REMEMBERED) for _ in range(2))
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            upload = upload_box("Your image: its center square is used")
            examples = example_gallery()
            steps = gr.Slider(10, MAX_STEPS, 100, step=10, label="Maximum steps", info="More is closer, but slower")
            with_labels = label_dropdowns(model)
        with gr.Column(scale=2, min_width=320):
            comparison = picture_shown("Your image, and its reconstruction", height=280)
            words = gr.Markdown()
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            sliders = [gr.Slider(-REACH, REACH, 0.0, step=0.25, label=name) for name in names]
            others = label_dropdowns(model)
            if not sliders and not others:
                gr.Markdown(
                    "This model has neither labels nor directions; `fagan-hf directions MODEL --dataset …` finds some."
                )
        with gr.Column(scale=2, min_width=320):
            edited = picture_shown("Edited", height=280)
    searched: dict[str, Any] = {
        "fn": search,
        "inputs": [taken, steps, *with_labels],
        "outputs": [state, comparison, words, edited, *sliders],
        **COMPUTES_LONG,
    }
    on_picture(upload, examples, taken, model, searched)
    wanted: dict[str, Any] = {
        "fn": move,
        "inputs": [state, *sliders, *others],
        "outputs": edited,
        **COMPUTES,
        "show_progress": "hidden",
    }
    for slider in sliders:
        slider.input(**wanted, trigger_mode="always_last")
    for dropdown in others:
        dropdown.input(**wanted)


def _shown(pixels: UInt8[np.ndarray, "height width channels"]) -> Image.Image:
    return as_picture(enlarged(pixels[None])[0])
