"""Projection of an image to its latent, and edits along the model's directions."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
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
from fagan_space.border import MoveTab, Nothing, ProjectTab, takes
from fagan_space.controls import COMPUTES, COMPUTES_LONG, Built, chosen_labels, label_dropdowns, picture_shown
from fagan_space.gpu import on_gpu
from fagan_space.limits import MAX_STEPS
from fagan_space.models import Model
from fagan_space.moves import direction_sliders, drag_note, moved, read_moves, strongest
from fagan_space.remembered import key_of, latents_for
from fagan_space.steps import in_steps
from fagan_space.uploads import (
    EXAMPLES,
    NO_PICTURE,
    Picture,
    example_gallery,
    example_picture,
    on_picture,
    upload_box,
)
from fagan_space.work import check_wanted

TITLE = "Your picture"
STEPS = 100
_KEPT = 600  # in the session [seconds]

Reconstruction = UInt8[np.ndarray, "height width channels"]


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
def find(model: Model, picture: Picture, *, steps: int = STEPS, labels: Mapping[str, Any] | None = None) -> Found:
    """Find the latent whose generated image is closest to the given one.

    Raises:
        ValueError: ``steps`` is less than 1 or more than `MAX_STEPS`.
    """
    return _find(model, picture, steps, labels)


@on_gpu
def search(
    model: Model, picture: Picture, *, steps: int = STEPS, labels: Mapping[str, Any] | None = None
) -> Iterator[Reconstruction | Found]:
    """Do the same as `find`, but yield the reconstruction whenever it has become better, and at last the result.

    Raises:
        ValueError: See `find`.
    """

    def work(tell: Callable[[Reconstruction], None]) -> Found:
        return _find(model, picture, steps, labels, tell)

    yield from in_steps(work)


def _find(
    model: Model,
    picture: Picture,
    steps: int,
    labels: Mapping[str, Any] | None,
    on_better: Callable[[Reconstruction], None] | None = None,
) -> Found:
    if not 1 <= steps <= MAX_STEPS:
        raise ValueError(f"steps is {steps}; it must be from 1 to {MAX_STEPS}")
    found = project(
        model.generator,
        torch.from_numpy(picture).float() / 127.5 - 1,
        discriminator=model.discriminator,
        labels=dict(labels) if labels else None,
        steps=steps,
        progress=False,
        on_step=check_wanted,
        on_better=on_better,
    )
    return Found(found.latents, found.labels, found.distance, _compared(picture, found.reconstruction))


def _recalled(model: Model, picture: Picture) -> Found | None:
    """Return the result for an example whose latent is known, see `fagan_space.remembered`."""
    latents = latents_for(model.generator).get(key_of(picture))
    if latents is None:
        return None
    reconstruction = _drawn(model, latents)
    errors = (reconstruction.transpose(2, 0, 1).astype(np.float32) - picture) / 127.5
    return Found(latents, None, float(np.square(errors).mean()), _compared(picture, reconstruction))


@on_gpu
def _drawn(model: Model, latents: Float[Tensor, "1 latent_dim"]) -> Reconstruction:
    return generate_images(model.generator, latents, progress=False)[0]


@cache
def first_example(model: Model) -> Found:
    """Return the result for the first example, which the tab starts with."""
    picture = example_picture(model, 0)
    return _recalled(model, picture) or find(model, picture)


@on_gpu
def edit(
    model: Model,
    found: Found,
    strengths: Mapping[str, float] | None = None,
    labels: Mapping[str, Any] | None = None,
) -> Reconstruction:
    """Generate the projected image, moved along directions or with other labels.

    Raises:
        ValueError: The model has no such direction or label.
    """
    latents, vectors = moved(model, found.latents, strengths or {}), found.labels
    if labels and vectors is not None:
        vectors = vectors.clone()
        for place, number in encode_labels(model.generator.config.label_names, labels).items():
            vectors[0, place] = number
    return generate_images(model.generator, latents, vectors, progress=False)[0]


def _compared(picture: Picture, reconstruction: Reconstruction) -> Image.Image:
    return image_grid(enlarged(np.stack([picture.transpose(1, 2, 0), reconstruction])), columns=2)


def _said(found: Found) -> str:
    return (
        f"Mean squared error {found.distance:.4f} (pixels in [-1, 1]). What the model has not learned can't be "
        "reconstructed."
    )


def build(model: Model) -> Built:
    """Build the tab."""
    names = strongest(model)

    @takes(ProjectTab)
    def find_latent(picture: Picture | None, steps: int, *chosen: str) -> Iterator[Any]:
        if picture is None:
            raise ValueError(NO_PICTURE)
        labels = chosen_labels(model, chosen)
        known = None if labels or steps != STEPS else _recalled(model, picture)
        unchanged = [gr.skip()] * (len(names) + 1)
        for found in [known] if known else search(model, picture, steps=int(steps), labels=labels):
            if isinstance(found, Found):
                yield found, found.comparison, _said(found), _shown(edit(model, found)), *([0.0] * len(names))
            else:
                yield gr.skip(), _compared(picture, found), "Getting closer …", *unchanged

    @takes(MoveTab)
    def move(found: Found | None, *values: Any) -> tuple[Image.Image, str]:
        if found is None:
            raise ValueError(NO_PICTURE)
        strengths, labels = read_moves(model, values)
        return _shown(edit(model, found, strengths, labels)), drag_note(model, strengths)

    @takes(Nothing)
    def first() -> tuple[Found, Image.Image, str, Image.Image]:
        found = first_example(model)
        return found, found.comparison, _said(found), _shown(edit(model, found))

    taken, state = (gr.State(None, time_to_live=_KEPT) for _ in range(2))
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            upload = upload_box("Your image: its center square is used")
            examples = example_gallery()
            with gr.Accordion("Details", open=False):
                steps = gr.Slider(
                    10, MAX_STEPS, STEPS, step=10, label="Maximum steps", info="More is closer, but slower"
                )
                with_labels = label_dropdowns(model)
        with gr.Column(scale=2, min_width=320):
            comparison = picture_shown("Your image, and its reconstruction", height=280)
            words = gr.Markdown()
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            sliders = direction_sliders(model)
            others = label_dropdowns(model)
            note = gr.Markdown()
            if not sliders and not others:
                gr.Markdown(
                    "This model has neither labels nor directions; `fagan-hf directions MODEL --dataset …` finds some."
                )
        with gr.Column(scale=2, min_width=320, elem_classes="results"):
            edited = picture_shown("Edited", height=280)
    searched: dict[str, Any] = {
        "fn": find_latent,
        "inputs": [taken, steps, *with_labels],
        "outputs": [state, comparison, words, edited, *sliders],
        **COMPUTES_LONG,
        "show_progress": "hidden",
    }
    on_picture(upload, examples, taken, model, searched)
    wanted: dict[str, Any] = {
        "fn": move,
        "inputs": [state, *sliders, *others],
        "outputs": [edited, note],
        **COMPUTES,
        "show_progress": "hidden",
    }
    for slider in sliders:
        slider.input(**wanted, trigger_mode="always_last")
    for dropdown in others:
        dropdown.input(**wanted)
    if not EXAMPLES:
        return Built()
    return Built([{"fn": first, "outputs": [state, comparison, words, edited], **COMPUTES_LONG}])


def _shown(pixels: Reconstruction) -> Image.Image:
    return as_picture(enlarged(pixels[None])[0])
