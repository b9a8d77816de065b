"""Images from seeds."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import gradio as gr
from PIL import Image

from fagan_space.border import GatesTab, GenerateTab, OthersTab, takes
from fagan_space.controls import (
    AT_HAND,
    COMPUTES,
    Event,
    chosen_labels,
    fresh_seeds,
    gallery_shown,
    label_dropdowns,
    python_line,
    seed_box,
)
from fagan_space.files import captioned, write_archive, write_grid, write_pictures
from fagan_space.gpu import on_gpu
from fagan_space.limits import MAX_IMAGES, read_seeds
from fagan_space.models import Model

TITLE = "Generate"
_BATCH = 16


@on_gpu
def draw(
    model: Model,
    seeds: Sequence[int],
    *,
    truncation: float = 1.0,
    labels: Mapping[str, Any] | None = None,
    alpha: float | Mapping[str, float] | None = None,
) -> list[Image.Image]:
    """Generate an image for each seed, byte for byte the same as on the command line and in Python."""
    output = model.pipe(seeds=list(seeds), truncation=truncation, labels=labels or None, alpha=alpha, chunk_size=_BATCH)
    return cast("list[Image.Image]", output.images)  # pyright: ignore[reportAttributeAccessIssue]


def build(model: Model) -> Event:
    """Build the tab, and return the event that fills it initially."""

    @takes(GenerateTab)
    def generate(text: str, truncation: float, is_trained: bool, alpha: float, *chosen: str) -> Any:
        seeds = read_seeds(text, MAX_IMAGES, size=model.size)
        labels = chosen_labels(model, chosen)
        wanted: dict[str, Any] = {"truncation": truncation} if truncation != 1 else {}
        wanted |= {"labels": labels} if labels else {}
        wanted |= {} if is_trained else {"alpha": alpha}
        images = draw(model, seeds, **wanted)
        paths = write_pictures(images, seeds)
        code = python_line(model, {"seeds": _as_python(seeds), **{name: repr(value) for name, value in wanted.items()}})
        return captioned(paths, seeds), code, str(write_grid(images)), str(write_archive(paths))

    @takes(GatesTab)
    def show_alpha(is_trained: bool) -> Any:
        return gr.Slider(visible=not is_trained)

    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            seeds = seed_box("0-15")
            count = gr.Slider(1, MAX_IMAGES, 16, step=1, label="Number of new seeds")
            others = gr.Button("New seeds", size="sm")
            truncation = gr.Slider(
                0.3, 1.2, 1.0, step=0.05, label="Truncation", info="Below 1: less varied, closer to the mean"
            )
            labels = label_dropdowns(model)
            is_trained = gr.Checkbox(True, label="Gates as trained", info="alpha: share of attention in each layer")
            alpha = gr.Slider(0.0, 1.0, 0.0, step=0.05, label="alpha for all layers", interactive=True, visible=False)
            button = gr.Button("Generate", variant="primary")
        with gr.Column(scale=3, min_width=320):
            gallery = gallery_shown("Images", object_fit="contain", buttons=["download", "fullscreen"])
            with gr.Row():
                grid = gr.DownloadButton("All as one PNG", size="sm")
                archive = gr.DownloadButton("All as ZIP", size="sm")
            code = gr.Code(label="The same in Python", language="python", interactive=False)
    outputs = [gallery, code, grid, archive]
    drawn: dict[str, Any] = {
        "fn": generate,
        "inputs": [seeds, truncation, is_trained, alpha, *labels],
        "outputs": outputs,
        **COMPUTES,
    }
    is_trained.change(show_alpha, is_trained, alpha, **AT_HAND)
    button.click(**drawn)
    seeds.submit(**drawn)
    others.click(takes(OthersTab)(fresh_seeds), count, seeds, **AT_HAND).then(**drawn)
    return drawn


def _as_python(seeds: Sequence[int]) -> str:
    """Write seeds as a Python expression, with consecutive runs as ranges."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    if len(runs) == 1 and len(seeds) > 2:
        return f"range({seeds[0]}, {seeds[-1] + 1})"
    parts = [f"*range({run[0]}, {run[-1] + 1})" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return f"[{', '.join(parts)}]"
