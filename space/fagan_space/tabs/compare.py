"""Two models side by side, with the same seeds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from fagan_space.border import CompareTab, Nothing, takes
from fagan_space.controls import COMPARES, COMPUTES, Built, gallery_shown, seed_box
from fagan_space.files import captioned, write_pictures
from fagan_space.limits import MAX_IMAGES, read_seeds
from fagan_space.models import Model
from fagan_space.rendering import render
from fagan_space.tabs.generate import FIRST_COUNT, draw, first_pictures
from fagan_space.work import check_wanted

TITLE = "Compare models"
_SAME = (
    "Both sides are the same model, so the pictures are the same: name another one, or an earlier version of it like "
    "`user/name@revision`."
)


@dataclass(frozen=True)
class Side:
    """Images of one of the two models.

    Attributes:
        title: The model's name, and the size of its images.
        seeds: The seed of each image.
        paths: Their files.
    """

    title: str
    seeds: list[int]
    paths: list[Path]


def pictures_of(name: str, own: Model, text: str, truncation: float) -> Side:
    """Generate images with a model that a visitor names.

    Args:
        name: The page's own model, also if empty, or ``user/name`` or ``user/name@revision`` on the Hub.
        own: The page's own model.
        text: Seeds, like ``"0-15, 42"``.
        truncation: Factor on the latents.

    Raises:
        FileNotFoundError: See `render`.
        ValueError: See `render` and `read_seeds`.
        GoneError: The client disconnected.
    """
    name = name.strip() or own.shown
    if name == own.shown:
        seeds = read_seeds(text, MAX_IMAGES, size=own.size)
        check_wanted()
        paths, size = write_pictures(draw(own, seeds, truncation=truncation), seeds), own.size
    else:
        seeds = read_seeds(text, MAX_IMAGES, size=1)
        paths, size = render(name, seeds, truncation)
    return Side(_title(name, size), seeds, paths)


def _title(name: str, size: int) -> str:
    return f"{name}, {size}x{size}"


def build(model: Model) -> Built:
    """Build the tab."""

    @takes(CompareTab)
    def compare(left: str, right: str, text: str, truncation: float) -> Any:
        return shown([pictures_of(name, model, text, truncation) for name in (left, right)])

    @takes(Nothing)
    def first() -> Any:
        seeds = [*range(FIRST_COUNT)]
        own = Side(_title(model.shown, model.size), seeds, write_pictures(first_pictures(model), seeds))
        return shown([own, own])

    def shown(sides: list[Side]) -> list[Any]:
        said = _SAME if sides[0].title == sides[1].title else ""
        return [said, *(gr.Gallery(captioned(side.paths, side.seeds), label=side.title) for side in sides)]

    gr.Markdown(
        "Enter two [fagan_hf](https://huggingface.co/models?library=fagan_hf) models on the Hub. Independently trained "
        "models give different images for the same seed; two training stages of one model give similar images."
    )
    with gr.Row():
        left = gr.Textbox(model.shown, label="Left: model", max_lines=1)
        right = gr.Textbox("", label="Right: model", placeholder="user/name or user/name@revision", max_lines=1)
    with gr.Row():
        seeds = seed_box(f"0-{FIRST_COUNT - 1}")
        truncation = gr.Slider(0.3, 1.2, 1.0, step=0.05, label="Truncation")
    button = gr.Button("Compare", variant="primary")
    said = gr.Markdown()
    with gr.Row():
        galleries = [gallery_shown(side, min_width=320, buttons=["download"]) for side in ("Left", "Right")]
    wanted: dict[str, Any] = {
        "fn": compare,
        "inputs": [left, right, seeds, truncation],
        "outputs": [said, *galleries],
        **COMPARES,
    }
    button.click(**wanted)
    right.submit(**wanted)
    return Built([{"fn": first, "outputs": [said, *galleries], **COMPUTES}])
