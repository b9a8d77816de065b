"""Images of the same seeds with gates from convolution only to attention only."""

from functools import cache
from typing import Any

import gradio as gr
from PIL import Image

from fagan_hf.attention_maps.pictures import alpha_strip
from fagan_hf.layers import gates
from fagan_hf.requests import shown
from fagan_hf.sampling.images import labels_from_seeds, latents_from_seeds
from fagan_space.border import DialTab, Nothing, takes
from fagan_space.controls import COMPUTES, Built, chosen_labels, label_dropdowns, picture_shown, seed_box
from fagan_space.gpu import on_gpu
from fagan_space.limits import read_seeds
from fagan_space.models import Model

TITLE = "More or less attention"
MAX_ROWS = 6
_SEEDS = [0, 1, 2]  # that the tab starts with
_ALL = "all layers"
_STEPS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
_TIMES = (-1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0)


@on_gpu
def strip(
    model: Model,
    seeds: list[int],
    *,
    layer: str | None = None,
    is_relative: bool = False,
    labels: dict[str, Any] | None = None,
) -> Image.Image:
    """Generate seeds at a range of gate values: one row per seed, one column per value, the first as trained.

    Args:
        model: The model to use.
        seeds: One per row.
        layer: The only layer whose gate is changed; by default all are.
        is_relative: Multiply the trained gates, instead of replacing them with values from 0 to 1?
        labels: Labels for a conditional model.

    Raises:
        ValueError: There is no such layer, or no layer with attention.
    """
    generator = model.generator
    latents = latents_from_seeds(seeds, generator.config.latent_dim)
    return alpha_strip(
        generator,
        latents,
        labels_from_seeds(generator, seeds, labels),
        _TIMES if is_relative else _STEPS,
        None if layer is None else [layer],
        is_relative=is_relative,
        row_names=[f"seed {seed}" for seed in seeds],
    )


def layers_of(model: Model) -> dict[str, str]:
    """Map the display names of the layers to their module names, from the latent to the image."""
    names = [name.rpartition(".")[0] for name in gates(model.generator)]
    return {f"layer {number} of {len(names)}": name for number, name in enumerate(names, start=1)}


def _trained(model: Model) -> str:
    """List the trained gates, for the details."""
    rows = [
        f"| {number} | `{name.rpartition('.')[0]}` | {gate.item():+.3f} |"
        for number, (name, gate) in enumerate(gates(model.generator).items(), start=1)
    ]
    return "\n".join(["| layer | its name | alpha as trained |", "| --- | --- | --- |", *rows])


@cache
def _first(model: Model) -> Image.Image:
    """Make the strip that the tab starts with: once, because it is the same for every visitor."""
    return strip(model, _SEEDS)


def build(model: Model) -> Built:
    """Build the tab."""
    layers = layers_of(model)
    if not layers:
        gr.Markdown("This generator has no attention layers.")
        return Built()

    @takes(DialTab)
    def turn(text: str, layer: str, is_relative: bool, *chosen: str) -> Image.Image:
        if layer not in (_ALL, *layers):
            raise ValueError(f"layer is {shown(layer)}; it must be one of the options in the list")
        seeds = read_seeds(text, MAX_ROWS, size=model.size)
        return strip(
            model, seeds, layer=layers.get(layer), is_relative=is_relative, labels=chosen_labels(model, chosen)
        )

    gr.Markdown(
        "Each layer blends a convolution and attention. Here you blend them otherwise, and see what falls apart."
    )
    with gr.Row(equal_height=False):
        seeds = seed_box(f"{_SEEDS[0]}-{_SEEDS[-1]}", info=f"At most {MAX_ROWS}, one row each")
        layer = gr.Dropdown([_ALL, *layers], value=_ALL, label="Layers to change")
        is_relative = gr.Checkbox(
            False, label="Multiply what was trained", info="otherwise the same share of attention in each"
        )
        labels = label_dropdowns(model)
    button = gr.Button("Apply", variant="primary")
    picture = picture_shown(
        "From convolution only (0) to attention only (1); first column as trained", classes=("paper",)
    )
    with gr.Accordion("Details", open=False):
        gr.Markdown(_trained(model))

    @takes(Nothing)
    def first() -> Image.Image:
        return _first(model)

    wanted: dict[str, Any] = {
        "fn": turn,
        "inputs": [seeds, layer, is_relative, *labels],
        "outputs": picture,
        **COMPUTES,
    }
    button.click(**wanted)
    seeds.submit(**wanted)
    layer.input(**wanted)
    is_relative.input(**wanted)
    return Built([{"fn": first, "outputs": picture, **COMPUTES, "show_progress": "hidden"}])
