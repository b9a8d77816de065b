"""Images from seeds, moved along directions: drawn again whenever a control moves."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, cast

import gradio as gr
from PIL import Image

from fagan_hf.sampling.images import labels_from_seeds, latents_from_seeds
from fagan_space.border import GalleryItem, GatesTab, GenerateTab, OthersTab, SeedsTab, takes
from fagan_space.controls import (
    AT_HAND,
    COMPUTES,
    Built,
    Event,
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
from fagan_space.moves import direction_sliders, drag_note, moved, read_moves

TITLE = "Generate"
FIRST_COUNT = 16
_BATCH = 16


@on_gpu
def draw(
    model: Model,
    seeds: Sequence[int],
    *,
    truncation: float = 1.0,
    labels: Mapping[str, Any] | None = None,
    alpha: float | Mapping[str, float] | None = None,
    strengths: Mapping[str, float] | None = None,
) -> list[Image.Image]:
    """Generate an image for each seed, byte for byte the same as on the command line and in Python.

    Raises:
        ValueError: The model has no such direction or label.
    """
    wanted: dict[str, Any] = {"seeds": list(seeds), "truncation": truncation, "labels": labels or None}
    if strengths:
        generator = model.generator
        latents = latents_from_seeds(seeds, generator.config.latent_dim, truncation)
        vectors = labels_from_seeds(generator, seeds, labels or None)
        wanted = {"latents": moved(model, latents, strengths), "labels": vectors}
    output = model.pipe(**wanted, alpha=alpha, chunk_size=_BATCH)
    return cast("list[Image.Image]", output.images)  # pyright: ignore[reportAttributeAccessIssue]


@cache
def first_pictures(model: Model) -> list[Image.Image]:
    """Generate the pictures that the page starts with: once, because they are the same for every visitor."""
    return draw(model, range(FIRST_COUNT))


def build(model: Model) -> tuple[Built, gr.Button]:
    """Build the tab; also return the button that wants to look inside the chosen picture."""

    @takes(GenerateTab)
    def generate(text: str, truncation: float, is_trained: bool, alpha: float, *values: Any) -> Any:
        seeds = read_seeds(text, MAX_IMAGES, size=model.size)
        strengths, labels = read_moves(model, values)
        wanted: dict[str, Any] = {"truncation": truncation} if truncation != 1 else {}
        wanted |= {"labels": labels} if labels else {}
        wanted |= {} if is_trained else {"alpha": alpha}
        is_first = seeds == [*range(FIRST_COUNT)] and not strengths and not wanted
        images = first_pictures(model) if is_first else draw(model, seeds, strengths=strengths, **wanted)
        paths = write_pictures(images, seeds)
        arguments = {"seeds": _as_python(seeds), **{name: repr(value) for name, value in wanted.items()}}
        code = python_line(model, arguments, strengths)
        note = drag_note(model, strengths)
        return captioned(paths, seeds), code, str(write_grid(images)), str(write_archive(paths)), note

    @takes(GatesTab)
    def show_alpha(is_trained: bool) -> Any:
        return gr.Slider(visible=not is_trained)

    @takes(SeedsTab, click=GalleryItem)
    def seed_at(text: str, chosen: gr.SelectData) -> int:
        seeds = read_seeds(text, MAX_IMAGES, size=model.size)
        return seeds[min(chosen.index, len(seeds) - 1)]

    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            others = gr.Button("Surprise me", variant="primary")
            sliders = direction_sliders(model)
            note = gr.Markdown()
            labels = label_dropdowns(model)
            truncation = gr.Slider(
                0.3, 1.2, 1.0, step=0.05, label="Truncation", info="Below 1: less varied, closer to the mean"
            )
            seeds = seed_box(f"0-{FIRST_COUNT - 1}")
            with gr.Accordion("Details", open=False):
                count = gr.Slider(1, MAX_IMAGES, 16, step=1, label="Number of new seeds")
                is_trained = gr.Checkbox(True, label="Gates as trained", info="alpha: share of attention in each layer")
                alpha = gr.Slider(
                    0.0, 1.0, 0.0, step=0.05, label="alpha for all layers", interactive=True, visible=False
                )
            button = gr.Button("Generate")
        with gr.Column(scale=3, min_width=320, elem_classes="results"):
            gallery = gallery_shown("Images", object_fit="contain", buttons=["download", "fullscreen"])
            with gr.Row():
                chosen = gr.Number(0, label="Picked seed", precision=0, minimum=0, min_width=120)
                inside = gr.Button("Look inside it", min_width=120)
                grid = gr.DownloadButton("All as one PNG", size="sm", min_width=120)
                archive = gr.DownloadButton("All as ZIP", size="sm", min_width=120)
            code = gr.Code(label="The same in Python", language="python", interactive=False)
    drawn: Event = {
        "fn": generate,
        "inputs": [seeds, truncation, is_trained, alpha, *sliders, *labels],
        "outputs": [gallery, code, grid, archive, note],
        **COMPUTES,
    }
    is_trained.change(show_alpha, is_trained, alpha, **AT_HAND).then(**drawn)
    button.click(**drawn)
    seeds.submit(**drawn)
    for control in (truncation, alpha, *sliders, *labels):
        control.input(**{**drawn, "show_progress": "hidden"}, trigger_mode="always_last")
    others.click(takes(OthersTab)(fresh_seeds), count, seeds, **AT_HAND).then(**drawn)
    gallery.select(seed_at, seeds, chosen, **AT_HAND)
    return Built([drawn], chosen, drawn), inside


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
