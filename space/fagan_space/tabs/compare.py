"""Two models side by side, with the same seeds."""

from typing import Any

import gradio as gr

from fagan_space.border import CompareTab, takes
from fagan_space.controls import COMPUTES, gallery_shown, seed_box
from fagan_space.files import captioned, write_pictures
from fagan_space.limits import MAX_IMAGES, read_seeds
from fagan_space.models import Model, load_named
from fagan_space.tabs.generate import draw
from fagan_space.work import check_wanted

TITLE = "Compare"


def build(model: Model) -> None:
    """Build the tab."""

    @takes(CompareTab)
    def compare(left: str, right: str, text: str, truncation: float) -> Any:
        galleries = []
        for name in (left, right):
            other = load_named(name, model)
            seeds = read_seeds(text, MAX_IMAGES, size=other.size)
            check_wanted()
            paths = write_pictures(draw(other, seeds, truncation=truncation), seeds)
            galleries.append(gr.Gallery(captioned(paths, seeds), label=f"{other.shown}, {other.size}x{other.size}"))
        return galleries

    gr.Markdown(
        "Enter two [fagan_hf](https://huggingface.co/models?library=fagan_hf) models on the Hub. Independently trained "
        "models give different images for the same seed; two training stages of one model give similar images."
    )
    with gr.Row():
        left = gr.Textbox(model.shown, label="Left: model", max_lines=1)
        right = gr.Textbox("", label="Right: model", placeholder="user/name or user/name@revision", max_lines=1)
    with gr.Row():
        seeds = seed_box("0-15")
        truncation = gr.Slider(0.3, 1.2, 1.0, step=0.05, label="Truncation")
    button = gr.Button("Compare", variant="primary")
    with gr.Row():
        galleries = [gallery_shown(side, min_width=320, buttons=["download"]) for side in ("Left", "Right")]
    wanted: dict[str, Any] = {
        "fn": compare,
        "inputs": [left, right, seeds, truncation],
        "outputs": galleries,
        **COMPUTES,
    }
    button.click(**wanted)
    right.submit(**wanted)
