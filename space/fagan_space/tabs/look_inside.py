"""Click a pixel: where each attention layer attends from there, and the outputs of its two branches."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from fagan_hf.attention_maps.capture import CapturedAttention, capture_attention
from fagan_hf.attention_maps.pictures import attention_tile, branch_tiles, marked_tile, times_uniform, weights_of
from fagan_hf.attention_maps.positions import Position
from fagan_hf.layers import gates, override_alpha
from fagan_hf.models import Discriminator, Generator
from fagan_hf.sampling.images import generate_images, labels_from_seeds, latents_from_seeds, to_uint8
from fagan_hf.viz.colors import as_picture
from fagan_space.border import GalleryItem, JudgeTab, LookTab, Nothing, Pixel, takes
from fagan_space.controls import (
    AT_HAND,
    COMPUTES,
    Event,
    chosen_labels,
    gallery_shown,
    label_dropdowns,
    picture_shown,
    seed_number,
)
from fagan_space.gpu import on_gpu
from fagan_space.models import Model
from fagan_space.uploads import NO_PICTURE, Picture, example_gallery, on_picture, upload_box

TITLE = "Look inside"
_TILE = 256  # [pixels]
_BIG = 512  # of the clickable image [pixels]

_EXPLANATION = """
The generator makes images; the discriminator scores how real an image looks, including yours. At each position of its
feature map, every layer does two things: a **convolution** looks at the neighbors, and **attention** gathers from all
positions. One learned number, **alpha**, blends the two: 0 is convolution only, 1 is attention only. If it is negative,
the layer subtracts the attention branch.

- **Attends to**: bright areas are where the framed position gathers from; each map is scaled to its own maximum.
  Keys may be pooled, so there can be fewer keys than positions.
- **Convolution, Attention**: the two outputs of the layer before blending. Similar colors are similar
  features (their first three principal components); in the output layer they are images.
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
    generator = model.generator
    latents = latents_from_seeds([seed], generator.config.latent_dim)
    images, captured = _captured(generator, position, latents, labels_from_seeds(generator, [seed], labels))
    [image] = to_uint8(images)
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
    if model.discriminator is None:
        raise ValueError(f"{model.shown} was published without its discriminator, so it can't score images")
    images = torch.from_numpy(picture)[None].float() / 127.5 - 1
    vectors = labels_from_seeds(model.generator, [0], labels)
    logits, captured = _captured(model.discriminator, position, images, vectors)
    return logits.item(), _looks(picture.transpose(1, 2, 0), captured, position)


def _captured(
    network: Generator | Discriminator, position: Position, inputs: Tensor, labels: Tensor | None
) -> tuple[Tensor, dict[str, CapturedAttention]]:
    given = [each.to(network.device, network.dtype) for each in (inputs, labels) if each is not None]
    with torch.inference_mode(), capture_attention(network, [position]) as captured:
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


@on_gpu
def alone(model: Model, seed: int, name: str, labels: dict[str, Any] | None = None) -> list[Image.Image]:
    """Generate a seed with one layer set to convolution only, as trained, and attention only."""
    generator = model.generator
    latents = latents_from_seeds([seed], generator.config.latent_dim)
    vectors = labels_from_seeds(generator, [seed], labels)
    pictures = []
    for alpha in (0.0, None, 1.0):
        with nullcontext() if alpha is None else override_alpha(generator, {name: alpha}):
            [pixels] = generate_images(generator, latents, vectors, progress=False)
        pictures.append(as_picture(pixels))
    return pictures


def build(model: Model) -> Event | None:
    """Build the tab, and return the event that fills it initially."""
    with gr.Tabs():
        with gr.Tab("Generator"):
            first = _build_generator(model)
        with gr.Tab("Discriminator"):
            _build_discriminator(model)
    with gr.Accordion("What am I looking at?", open=True):
        gr.Markdown(_EXPLANATION)
    return first


def _place_sliders(model: Model) -> tuple[gr.Slider, gr.Slider]:
    middle, last = model.size // 2, model.size - 1
    with gr.Row():
        row = gr.Slider(0, last, middle, step=1, label="Row", min_width=120)
        column = gr.Slider(0, last, middle, step=1, label="Column", min_width=120)
    return row, column


def _layer_slider(count: int, value: int, info: str) -> gr.Slider:
    # A slider needs two distinct ends; if there is only one layer, it is hidden.
    return gr.Slider(1, max(count, 2), value, step=1, label="Layer", info=info, visible=count > 1)


def _tiles() -> list[Any]:
    """Make the components that show one layer, in the order of `_shown`."""
    words = gr.Markdown()
    with gr.Row():
        tiles = [
            picture_shown(label, min_width=90, buttons=["fullscreen"])
            for label in ("Attends to", "Convolution", "Attention")
        ]
    return [words, *tiles]


def _shown(looks: list[Look], layer: int) -> list[Any]:
    look = _chosen(looks, layer)
    return [look.words, look.heat, look.convolution, look.attention]


def _chosen(looks: list[Look], layer: int) -> Look:
    if layer > len(looks):
        raise ValueError(f"layer is {layer}; this network has {len(looks)}")
    return looks[layer - 1]


def _strip(looks: list[Look]) -> list[tuple[Image.Image, str]]:
    return [(look.heat, f"{number}: alpha {look.alpha:+.2f}") for number, look in enumerate(looks, start=1)]


def _overview() -> gr.Gallery:
    return gallery_shown("Where all layers look from here, first to last: click one", allow_preview=False)


@takes(Nothing, click=GalleryItem)
def _layer_at(event: gr.SelectData) -> int:
    """Return the number of the layer that was clicked in the overview."""
    return event.index + 1


def _pixel_of(size: int) -> Callable[[gr.SelectData], tuple[int, int]]:
    """Make a function that returns the clicked pixel: (row, column)."""

    @takes(Nothing, click=Pixel)
    def pixel(event: gr.SelectData) -> tuple[int, int]:
        x, y = event.index
        return min(int(y * size) // _BIG, size - 1), min(int(x * size) // _BIG, size - 1)

    return pixel


def _build_generator(model: Model) -> Event | None:
    count = len(gates(model.generator))
    if not count:
        gr.Markdown("This generator has no attention layers.")
        return None

    @takes(LookTab)
    def look(seed: int, row: int, column: int, layer: int, *chosen: str) -> Any:
        labels = chosen_labels(model, chosen)
        position = int(row), int(column)
        image, looks = look_at_generator(model, seed, position, labels)
        pictures = alone(model, seed, _chosen(looks, layer).name, labels)
        captions = ("convolution only", "as trained", "attention only")
        return [
            marked_tile(image, position, tile_size=_BIG),
            *_shown(looks, layer),
            [*zip(pictures, captions, strict=True)],
            _strip(looks),
        ]

    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            seed = seed_number()
            labels = label_dropdowns(model)
            button = gr.Button("Generate", variant="primary")
            picture = picture_shown("Click a pixel", classes=("clickable",), height=360, buttons=[])
            row, column = _place_sliders(model)
        with gr.Column(scale=2, min_width=320):
            layer = _layer_slider(count, count, "1 is closest to the latent")
            tiles = _tiles()
            whole = gallery_shown("The whole image, with this layer set to", classes=("large",), allow_preview=False)
            overview = _overview()
    wanted: dict[str, Any] = {
        "fn": look,
        "inputs": [seed, row, column, layer, *labels],
        "outputs": [picture, *tiles, whole, overview],
        **COMPUTES,
        "show_progress": "hidden",
    }
    button.click(**wanted)
    seed.submit(**wanted)
    picture.select(_pixel_of(model.size), None, [row, column], **AT_HAND).then(**wanted)
    overview.select(_layer_at, None, layer, **AT_HAND).then(**wanted)
    for slider in (row, column, layer):
        slider.input(**wanted, trigger_mode="always_last")
    return wanted


def _build_discriminator(model: Model) -> None:
    if model.discriminator is None or not gates(model.discriminator):
        without = "its discriminator" if model.discriminator is None else "attention in its discriminator"
        gr.Markdown(f"This model was published without {without}.")
        return
    count = len(gates(model.discriminator))

    @takes(JudgeTab)
    def look(taken: Any, row: int, column: int, layer: int, *chosen: str) -> Any:
        if taken is None:
            raise ValueError(NO_PICTURE)
        position = int(row), int(column)
        logit, looks = look_at_discriminator(model, taken, position, chosen_labels(model, chosen))
        image = taken.transpose(1, 2, 0)
        words = f"Logit **{logit:+.2f}**: higher means more like a real image of the training data."
        return [marked_tile(image, position, tile_size=_BIG), words, *_shown(looks, layer), _strip(looks)]

    taken = gr.State(None, time_to_live=600)
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            upload = upload_box(f"Your image: its center square, at {model.size}x{model.size}")
            examples = example_gallery()
            labels = label_dropdowns(model)
            picture = picture_shown("Click a pixel", classes=("clickable",), height=360, buttons=[])
            verdict = gr.Markdown()
            row, column = _place_sliders(model)
        with gr.Column(scale=2, min_width=320):
            layer = _layer_slider(count, 1, "1 is closest to the image")
            tiles = _tiles()
            overview = _overview()
    wanted: dict[str, Any] = {
        "fn": look,
        "inputs": [taken, row, column, layer, *labels],
        "outputs": [picture, verdict, *tiles, overview],
        **COMPUTES,
        "show_progress": "hidden",
    }
    on_picture(upload, examples, taken, model, wanted)
    picture.select(_pixel_of(model.size), None, [row, column], **AT_HAND).then(**wanted)
    overview.select(_layer_at, None, layer, **AT_HAND).then(**wanted)
    for slider in (row, column, layer):
        slider.input(**wanted, trigger_mode="always_last")
