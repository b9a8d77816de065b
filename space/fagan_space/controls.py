"""Controls shared by several tabs."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from fagan_space.limits import AT_ONCE
from fagan_space.models import Model
from fagan_space.words import column_words, value_words

Event = dict[str, Any]  # arguments of Gradio's listeners: a function, its inputs and outputs, and queue options

ANY = "any"


@dataclass(frozen=True)
class Built:
    """What the page needs to know of a tab that was built.

    Attributes:
        firsts: Events that fill it when the page opens: no tab starts empty.
        seed: Its box of one seed, if it has one.
        drawn: The event that draws this seed.
    """

    firsts: list[Event] = field(default_factory=list)
    seed: gr.Number | None = None
    drawn: Event | None = None


# Queue options of events. Image requests share one lane, long-running requests another; uploads, which can take long to
# decode, and models that visitors name, which can take long to download, have lanes as well: no image waits for any of
# those. Events that compute nothing have an unlimited one. Nothing bypasses the queue.
# The tabs' events are private; programs use the endpoints in `api` instead.
IN_LINE: Event = {"concurrency_id": "pictures", "concurrency_limit": AT_ONCE}
LONG: Event = {"concurrency_id": "long", "concurrency_limit": 1}
MODELS: Event = {"concurrency_id": "models", "concurrency_limit": 1}
UPLOADS: Event = {"concurrency_id": "uploads", "concurrency_limit": 1}
COMPUTES: Event = {**IN_LINE, "api_visibility": "private"}
COMPUTES_LONG: Event = {**LONG, "api_visibility": "private"}
COMPARES: Event = {**MODELS, "api_visibility": "private"}
DECODES: Event = {**UPLOADS, "api_visibility": "private"}
AT_HAND: Event = {
    "concurrency_id": "at hand",
    "concurrency_limit": None,
    "api_visibility": "private",
    "show_progress": "hidden",
}

_FRESH = 100_000  # number of blocks that new seeds are picked from


def seed_box(value: str, info: str = "Each seed maps to one image, e.g. 0-15, 42") -> gr.Textbox:
    """Make a text box for several seeds."""
    return gr.Textbox(value, label="Seeds", info=info, max_lines=1)


def seed_number() -> gr.Number:
    """Make a box for one seed."""
    return gr.Number(0, label="Seed", precision=0, minimum=0)


def picture_shown(label: str, *, classes: tuple[str, ...] = (), **options: Any) -> gr.Image:
    """Make an image component that shows pixels exactly as generated, as PNG."""
    wanted = {"interactive": False, "format": "png", "buttons": ["download", "fullscreen"], **options}
    return gr.Image(label=label, elem_classes=["pixels", *classes], **wanted)


def gallery_shown(label: str, **options: Any) -> gr.Gallery:
    """Make a gallery that shows pixels exactly as generated, as PNGs."""
    wanted = {"interactive": False, "format": "png", "height": "auto", "buttons": [], **options}
    return gr.Gallery(label=label, elem_classes=["pixels"], **wanted)


def fresh_seeds(count: float) -> str:
    """Return a random run of ``count`` consecutive seeds, as text."""
    count = int(count)
    first = random.randrange(_FRESH) * count
    return str(first) if count == 1 else f"{first}-{first + count - 1}"


def label_dropdowns(model: Model) -> list[gr.Dropdown]:
    """Make a dropdown for each of the model's labels; none for an unconditional model."""
    return [
        gr.Dropdown([ANY, *((value_words(value), value) for value in values)], value=ANY, label=column_words(name))
        for name, values in model.labels.items()
    ]


def chosen_labels(model: Model, chosen: Sequence[str]) -> dict[str, Any]:
    """Convert the values of `label_dropdowns` to labels; those left at `ANY` are omitted.

    Raises:
        ValueError: There are more or fewer values than the model has labels.
    """
    if len(chosen) != len(model.labels):
        raise ValueError(f"{len(chosen)} labels were sent; this model has {len(model.labels)}")
    return {
        name: {"yes": True, "no": False}.get(value, value)
        for name, value in zip(model.labels, chosen, strict=True)
        if value != ANY
    }


def python_line(model: Model, arguments: Mapping[str, Any], strengths: Mapping[str, float] | None = None) -> str:
    """Write Python code that generates the same images.

    Args:
        model: The model, under the name by which visitors know it.
        arguments: Those of the pipeline, as Python expressions, with ``seeds`` among them.
        strengths: Of the directions along which the images are moved.
    """
    if not strengths:
        written = ", ".join(f"{name}={value}" for name, value in arguments.items())
        call = f'FAGANPipeline.from_pretrained("{model.shown}")({written})'
        return f"from fagan_hf import FAGANPipeline\n\nimages = {call}.images"
    others = {"latents": "latents"}
    others |= {name: value for name, value in arguments.items() if name not in ("seeds", "truncation")}
    if model.labels:  # those of a seed, which latents don't tell
        others["labels"] = f"labels_from_seeds(pipe.generator, seeds, {others.get('labels')})"
    used = ["labels_from_seeds", "latents_from_seeds"] if model.labels else ["latents_from_seeds"]
    size = ", truncation=" + arguments["truncation"] if "truncation" in arguments else ""
    lines = [
        "from fagan_hf import FAGANPipeline",
        "from fagan_hf.hub import resolve",
        "from fagan_hf.latent_space import Directions",
        f"from fagan_hf.sampling import {', '.join(used)}",
        "",
        f'name, seeds = "{model.shown}", {arguments["seeds"]}',
        "pipe = FAGANPipeline.from_pretrained(name)",
        'file = "directions.safetensors"',
        "directions = Directions.load(resolve(name, allow_patterns=[file]).folder / file)",
        f"latents = latents_from_seeds(seeds, {model.generator.config.latent_dim}{size})",
        f"latents = directions.move(latents, {dict(strengths)})",
        f"images = pipe({', '.join(f'{name}={value}' for name, value in others.items())}).images",
    ]
    return "\n".join(lines)
