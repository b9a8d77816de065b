"""Latent interpolation from seed to seed, as a GIF or video."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from fagan_hf.latent_space.walks import lerp, walk
from fagan_hf.sampling.images import labels_from_seeds, latents_from_seeds, sample, to_uint8
from fagan_hf.viz.films import check_film, writable_suffixes, write_film
from fagan_hf.viz.grids import enlarged
from fagan_space.border import SUFFIXES, Nothing, WalkTab, takes
from fagan_space.controls import COMPUTES_LONG, Built, chosen_labels, label_dropdowns, picture_shown, seed_box
from fagan_space.files import keep, request_folder
from fagan_space.gpu import on_gpu
from fagan_space.limits import MAX_FRAMES, MAX_WALK_SEEDS, read_seeds
from fagan_space.models import Model
from fagan_space.work import check_wanted

TITLE = "Walk"
_BATCH = 16
_SEEDS, _FRAMES = "0-3", 24  # that the tab starts with
_NAMES = {suffix: f"walk{suffix}" for suffix in SUFFIXES}


def film(
    model: Model,
    seeds: Sequence[int],
    *,
    frames_per_step: int = 24,
    seconds: float = 6.0,
    suffix: str = ".gif",
    is_loop: bool = True,
    labels: dict[str, Any] | None = None,
    tell: Callable[[float, str], Any] = lambda share, words: None,
) -> Path:
    """Make a GIF or video that interpolates from seed to seed.

    Args:
        model: The model to use.
        seeds: At least two different ones.
        frames_per_step: Frames from each seed to the next.
        seconds: Duration.
        suffix: ``".gif"`` or ``".mp4"``.
        is_loop: Return to the first seed?
        labels: Labels for a conditional model.
        tell: Progress callback; receives the share done, from 0 to 1, and a description.

    Raises:
        ValueError: There would be too many frames, or too many per second.
    """
    steps = len(seeds) if is_loop else len(seeds) - 1
    if steps * frames_per_step > MAX_FRAMES:
        raise ValueError(
            f"{steps} x {frames_per_step} frames are more than the limit of {MAX_FRAMES}; use fewer seeds or frames"
        )
    generator = model.generator
    latents = walk(latents_from_seeds(seeds, generator.config.latent_dim), frames_per_step, is_loop=is_loop)
    wanted = labels_from_seeds(generator, seeds, labels)
    if wanted is not None:
        wanted = walk(wanted, frames_per_step, is_loop=is_loop, interpolation=lerp)
    name = _NAMES[suffix]  # never derived from a visitor's input
    speed = len(latents) / seconds
    check_film(Path(name), speed)
    frames: list[np.ndarray] = []
    for batch in _draw(model, latents, wanted):
        check_wanted()
        frames.extend(batch)
        tell(0.9 * len(frames) / len(latents), f"{len(frames)} of {len(latents)} frames")
    tell(0.95, "encoding")
    path = request_folder() / name
    write_film(path, enlarged(np.stack(frames)), frames_per_second=speed)
    return path


@on_gpu
def _draw(
    model: Model, latents: Float[Tensor, "frames latent_dim"], labels: Float[Tensor, "frames num_labels"] | None
) -> Iterator[UInt8[np.ndarray, "batch height width channels"]]:
    for batch in sample(model.generator, latents, labels, batch_size=_BATCH, progress=False):
        yield to_uint8(batch)


@cache
def _first(model: Model) -> Path:
    """Make the walk that the tab starts with: once, because it is the same for every visitor."""
    return keep(film(model, read_seeds(_SEEDS, MAX_WALK_SEEDS, size=model.size), frames_per_step=_FRAMES))


def build(model: Model) -> Built:
    """Build the tab."""

    @takes(WalkTab)
    def make(
        text: str,
        frames: int,
        seconds: float,
        suffix: str,
        is_loop: bool,
        *chosen: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  # how Gradio functions request one
    ) -> Any:
        seeds = read_seeds(text, MAX_WALK_SEEDS, size=model.size, least=2)
        path = film(
            model,
            seeds,
            frames_per_step=frames,
            seconds=seconds,
            suffix=suffix,
            is_loop=is_loop,
            labels=chosen_labels(model, chosen),
            tell=lambda share, words: progress(share, desc=words),
        )
        is_gif = suffix == ".gif"
        return (
            gr.Image(str(path) if is_gif else None, visible=is_gif),
            gr.Video(None if is_gif else str(path), visible=not is_gif),
        )

    @takes(Nothing)
    def first() -> str:
        return str(_first(model))

    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            seeds = seed_box(_SEEDS, info="At least two, visited in this order")
            frames = gr.Slider(4, 60, _FRAMES, step=1, label="Frames between seeds")
            seconds = gr.Slider(1, 20, 6, step=0.5, label="Duration in seconds")
            suffixes = [suffix for suffix in SUFFIXES if suffix in writable_suffixes()]
            suffix = gr.Radio(suffixes, value=suffixes[0], label="File type")
            is_loop = gr.Checkbox(True, label="Loop back to the first seed")
            labels = label_dropdowns(model)
            button = gr.Button("Walk", variant="primary")
        with gr.Column(scale=2, min_width=320):
            gif = picture_shown("The walk", type="filepath", height=420)
            video = gr.Video(label="The walk", height=420, loop=True, autoplay=True, visible=False, interactive=False)
    wanted: dict[str, Any] = {
        "fn": make,
        "inputs": [seeds, frames, seconds, suffix, is_loop, *labels],
        "outputs": [gif, video],
        **COMPUTES_LONG,
    }
    button.click(**wanted)
    seeds.submit(**wanted)
    return Built([{"fn": first, "outputs": gif, **COMPUTES_LONG, "show_progress": "hidden"}])
