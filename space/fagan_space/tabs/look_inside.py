"""Click a pixel: where each attention layer attends from there, and the outputs of its two branches."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import gradio as gr
import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from fagan_hf.attention_maps.capture import CapturedAttention, capture_attention
from fagan_hf.attention_maps.pictures import attention_tile, branch_tiles, times_uniform, weights_of
from fagan_hf.attention_maps.positions import Position
from fagan_hf.layers import gates, override_alpha
from fagan_hf.models import Discriminator, Generator
from fagan_hf.sampling.images import generate_images, labels_from_seeds, latents_from_seeds, to_uint8
from fagan_space.attention_view import attention_view, queries, view_of
from fagan_space.border import JudgeTab, LookTab, takes
from fagan_space.controls import COMPUTES, Built, Event, chosen_labels, label_dropdowns, seed_number
from fagan_space.gpu import on_gpu
from fagan_space.models import Model
from fagan_space.uploads import EXAMPLES, Picture, example_gallery, example_picture, on_picture, upload_box

TITLE = "Look inside"
_TILE = 256  # [pixels]

# From the seed in the page's address, if there is one: a link holds it.
_SEED_OF_LINK = """(seed, ...others) => {
    const linked = new URLSearchParams(location.hash.slice(1)).get("seed") ?? "";
    return [/^\\d{1,15}$/.test(linked) ? Number(linked) : seed, ...others];
}"""

_EXPLANATION = """
The generator makes pictures; the discriminator judges how real a picture looks, including yours. At every place, each
of their layers does two things: a **convolution** sees the neighbors, and **attention** gathers from everywhere. The
layer blends the two by one number that it has learned.

- **Looks at**: bright places are where the framed one gathers from; each map is scaled to its own maximum. A layer may
  look at fewer, larger places than it has.
- **Convolution, Attention**: what the two bring, before they are blended. Similar colors are similar features (their
  first three principal components); in the last layer they are pictures.
"""


@dataclass(frozen=True)
class Look:
    """One layer's attention from one position.

    Attributes:
        name: Name of the layer.
        alpha: Its gate.
        times_uniform: The largest attention weight, as a multiple of the uniform weight.
        heat: Heat map of the attention weights over the image.
        convolution: Output of the convolution branch.
        attention: Output of the attention branch.
        words: One-line summary of the above.
    """

    name: str
    alpha: float
    times_uniform: float
    heat: Image.Image
    convolution: Image.Image
    attention: Image.Image
    words: str


@on_gpu
def look_at_generator(
    model: Model, seed: int, position: Position, labels: dict[str, Any] | None = None
) -> tuple[UInt8[np.ndarray, "height width channels"], list[Look]]:
    """Generate the image of a seed, and capture the attention of each layer.

    Returns:
        The image, and the layers in order from latent to image.
    """
    images, captured = _captured(model.generator, [position], *_inputs(model.generator, seed, labels))
    image = to_uint8(images)[0]
    return image, _looks(image, captured, position)


@on_gpu
def look_at_discriminator(
    model: Model, picture: Picture, position: Position, labels: dict[str, Any] | None = None
) -> tuple[float, list[Look]]:
    """Compute the discriminator's logit for an image, and capture the attention of each layer.

    Returns:
        The logit (higher means more real), and the layers in order, starting at the image.

    Raises:
        ValueError: The model was published without its discriminator.
    """
    logit, captured = _judged(model, picture, [position], labels)
    return logit, _looks(picture.transpose(1, 2, 0), captured, position)


@on_gpu
def generator_view(model: Model, seed: int, labels: dict[str, Any] | None = None) -> dict[str, Any]:
    """Generate the image of a seed, and pack it with what every layer does, see `view_of`."""
    generator = model.generator
    inputs = _inputs(generator, seed, labels)
    images, captured = _captured(generator, queries(model.size), *inputs)
    image = to_uint8(images)[0]

    def with_gate(name: str, alpha: float) -> UInt8[np.ndarray, "height width channels"]:
        with override_alpha(generator, {name: alpha}):
            return generate_images(generator, *inputs, progress=False)[0]

    wholes = {name: [with_gate(name, 0.0), image, with_gate(name, 1.0)] for name in captured}
    return view_of(image, captured, seed=seed, wholes=wholes)


@on_gpu
def discriminator_view(
    model: Model, picture: Picture, labels: dict[str, Any] | None = None
) -> tuple[float, dict[str, Any]]:
    """Compute the discriminator's logit for an image, and pack the image with what every layer does, see `view_of`."""
    logit, captured = _judged(model, picture, queries(model.size), labels)
    return logit, view_of(picture.transpose(1, 2, 0), captured)


def _inputs(generator: Generator, seed: int, labels: dict[str, Any] | None) -> tuple[Tensor, Tensor | None]:
    """Return the latent of a seed, and its labels."""
    return latents_from_seeds([seed], generator.config.latent_dim), labels_from_seeds(generator, [seed], labels)


def _judged(
    model: Model, picture: Picture, positions: Sequence[Position], labels: dict[str, Any] | None
) -> tuple[float, dict[str, CapturedAttention]]:
    """Return the discriminator's logit for an image, and what its layers did."""
    if model.discriminator is None:
        raise ValueError(f"{model.shown} was published without its discriminator, so it can't score images")
    images = torch.from_numpy(picture)[None].float() / 127.5 - 1
    vectors = labels_from_seeds(model.generator, [0], labels)
    logits, captured = _captured(model.discriminator, positions, images, vectors)
    return logits.item(), captured


def _captured(
    network: Generator | Discriminator, positions: Sequence[Position], inputs: Tensor, labels: Tensor | None
) -> tuple[Tensor, dict[str, CapturedAttention]]:
    given = [each.to(network.device, network.dtype) for each in (inputs, labels) if each is not None]
    with torch.inference_mode(), capture_attention(network, positions) as captured:
        output = network(*given).float().cpu()
    return output, captured


def _looks(
    image: UInt8[np.ndarray, "height width channels"], captured: dict[str, CapturedAttention], position: Position
) -> list[Look]:
    looks = []
    for number, (name, layer) in enumerate(captured.items(), start=1):
        weights = weights_of(layer, position, len(image))[0]
        convolution, attention = branch_tiles(layer, tile_size=_TILE)
        times = times_uniform(weights)
        places, keys = ("{}x{}".format(*shape) for shape in (layer.shape, weights.shape))
        words = (
            f"Layer {number} of {len(captured)}, {name}: alpha {layer.gate:+.3f}; {places} positions attend to "
            f"{keys}; from here up to {times:.1f} times the uniform weight"
        )
        heat = attention_tile(image, layer, position, tile_size=_TILE)
        looks.append(Look(name, layer.gate, times, heat, convolution, attention, words))
    return looks


# What every visitor sees first is computed once.


@cache
def _first(model: Model) -> dict[str, Any]:
    return generator_view(model, 0)


@cache
def _first_judged(model: Model) -> tuple[float, dict[str, Any]]:
    return discriminator_view(model, example_picture(model, 0))


def build(model: Model) -> Built:
    """Build the tab."""
    with gr.Tabs(overflow_behavior="wrap"):
        with gr.Tab("Generator"):
            built = _build_generator(model)
        with gr.Tab("Discriminator"):
            judged = _build_discriminator(model)
    with gr.Accordion("What am I looking at?", open=True):
        gr.Markdown(_EXPLANATION)
    return Built([*built.firsts, *judged.firsts], built.seed, built.drawn)


def _build_generator(model: Model) -> Built:
    if not gates(model.generator):
        gr.Markdown("This generator has no attention layers.")
        return Built()

    @takes(LookTab)
    def look(seed: int, *chosen: str) -> Any:
        labels = chosen_labels(model, chosen)
        return seed, _first(model) if seed == 0 and not labels else generator_view(model, seed, labels)

    with gr.Row():
        seed = seed_number()
        labels = label_dropdowns(model)
        button = gr.Button("Show this seed", variant="primary")
    view = attention_view("The generated picture", chosen=-1)
    drawn: Event = {
        "fn": look,
        "inputs": [seed, *labels],
        "outputs": [seed, view],
        **COMPUTES,
        "show_progress": "hidden",
    }
    button.click(**drawn)
    seed.submit(**drawn)
    for label in labels:
        label.input(**drawn)
    return Built([{**drawn, "js": _SEED_OF_LINK}], seed, drawn)


def _build_discriminator(model: Model) -> Built:
    if model.discriminator is None or not gates(model.discriminator):
        without = "its discriminator" if model.discriminator is None else "attention in its discriminator"
        gr.Markdown(f"This model was published without {without}.")
        return Built()

    @takes(JudgeTab)
    def look(taken: Any, *chosen: str) -> Any:
        labels = chosen_labels(model, chosen)
        if taken is None and not labels:
            logit, view = _first_judged(model)
        else:
            logit, view = discriminator_view(model, example_picture(model, 0) if taken is None else taken, labels)
        return f"Score **{logit:+.2f}**: the higher, the more it looks like a picture of the training data.", view

    taken = gr.State(None, time_to_live=600)
    with gr.Row():
        upload = upload_box(f"Your image: its center square, at {model.size}x{model.size}")
        with gr.Column(min_width=300):
            examples = example_gallery()
            labels = label_dropdowns(model)
            verdict = gr.Markdown()
    view = attention_view("Your picture", chosen=0)
    drawn: Event = {
        "fn": look,
        "inputs": [taken, *labels],
        "outputs": [verdict, view],
        **COMPUTES,
        "show_progress": "hidden",
    }
    on_picture(upload, examples, taken, model, drawn)
    for label in labels:
        label.input(**drawn)
    return Built([drawn] if EXAMPLES else [])
