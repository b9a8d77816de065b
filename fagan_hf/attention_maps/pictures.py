"""Draw attention: attention maps, outputs of both branches, and images with other gates."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from fagan_hf.attention_maps.capture import CapturedAttention
from fagan_hf.attention_maps.positions import Position, check_positions, position_on_map
from fagan_hf.layers import gates, override_alpha
from fagan_hf.layers.gates import current_gate
from fagan_hf.models import Generator
from fagan_hf.sampling.images import generate_images, to_uint8
from fagan_hf.viz.colors import as_rgb

# Colors from no attention to the maximum, with increasing lightness, so that the map also works in grayscale.
_COLORS = [(8, 8, 28), (66, 22, 104), (150, 38, 116), (224, 78, 90), (250, 150, 82), (255, 220, 140), (255, 252, 225)]
_MARK = (0, 255, 210)  # a hue that the colors don't have
_INK, _FAINT_INK, _PAPER = (25, 25, 30), (105, 105, 115), (255, 255, 255)
_HEAT_OPACITY = (0.45, 0.9)  # without attention, and at its maximum
_FONT_SIZE = 13  # [pixels]
_LINE_HEIGHT = 18  # [pixels]
_GAP = 8  # [pixels]


def heat_colors(values: Float[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """Map numbers from 0 to 1 to colors: nearly black, purple, red, orange, nearly white."""
    stops = np.linspace(0, 1, len(_COLORS))
    channels = [np.interp(values, stops, channel) for channel in np.array(_COLORS).T]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def attention_picture(
    images: UInt8[np.ndarray, "batch height width channels"],
    captured: Mapping[str, CapturedAttention],
    position: Position,
    *,
    title: str = "",
    tile_size: int = 192,
) -> Image.Image:
    """Draw the attention maps of a query pixel: a row per layer, two columns per image.

    The first row shows the images with the pixel marked. Below are each layer's weights, averaged over its heads: over
    the image to the left, alone to the right; the query's position in the layer is framed. Each map is scaled from 0 to
    its maximum, which is printed below as a multiple of uniform attention. "32x32 of 8x8" is a layer with pooled keys:
    queries are positions of the first map, keys of the second.

    Args:
        images: Square, of 1, 3 or 4 channels: output or input of the network in the captured pass.
        captured: From `capture_attention`, with ``position`` among its positions or with all.
        position: (row, column) [pixels of the image].
        title: Title at the top.
        tile_size: Height and width of each displayed image [pixels].

    Raises:
        ValueError: ``position`` is outside the image or was not captured, there is nothing to draw, or the number of
            images differs from the captured batch.
    """
    batch, height, width, _ = images.shape
    if not captured or batch == 0:
        raise ValueError(
            f"there are {len(captured)} captured layers and {batch} images; at least one of each is needed"
        )
    check_positions([position], height, width)
    font = ImageFont.load_default(size=_FONT_SIZE)
    margin = _label_width(font, captured, title)
    step = tile_size + _GAP
    row_height = step + _LINE_HEIGHT
    picture = Image.new("RGB", (margin + 2 * batch * step, _GAP + (1 + len(captured)) * row_height), _PAPER)
    draw = ImageDraw.Draw(picture)
    _draw_label(draw, font, _GAP, [title, "pixel ({}, {})".format(*position)])
    for index, image in enumerate(images):
        corner = (margin + 2 * index * step, _GAP)
        picture.paste(_enlarged(image, tile_size), corner)
        _draw_mark(draw, corner, position, (height, width), tile_size)
        _draw_scale(picture, draw, font, (corner[0] + step, _GAP + tile_size), tile_size)
    for line, (name, layer) in enumerate(captured.items(), start=1):
        top = _GAP + line * row_height
        maps = _maps_of(name, layer, position, images)
        sizes = " of ".join("{}x{}".format(*each) for each in dict.fromkeys((layer.shape, maps.shape[1:])))
        _draw_label(draw, font, top, [name, sizes, f"gate {layer.gate:+.3f}"])
        for index, (image, weights) in enumerate(zip(images, maps, strict=True)):
            for side, tile in enumerate((_overlay(image, _heat(weights), tile_size), _heat_tile(weights, tile_size))):
                corner = (margin + (2 * index + side) * step, top)
                picture.paste(tile, corner)
                _draw_mark(draw, corner, position_on_map(position, height, *layer.shape), layer.shape, tile_size)
            caption = f"max {times_uniform(weights):.1f} x uniform"
            draw.text((margin + (2 * index + 1) * step, top + tile_size + 2), caption, _FAINT_INK, font)
    return picture


def attention_tile(
    image: UInt8[np.ndarray, "height width channels"],
    layer: CapturedAttention,
    position: Position,
    *,
    index: int = 0,
    tile_size: int = 192,
) -> Image.Image:
    """Draw the attention map of a query pixel in one layer, over the image: a single tile of `attention_picture`.

    Args:
        image: Square, of 1, 3 or 4 channels: output or input of the network.
        layer: From `capture_attention`, with ``position`` among its positions or with all.
        position: (row, column) [pixels of the image].
        index: Index of the image in the captured batch.
        tile_size: Height and width of the tile [pixels].

    Raises:
        ValueError: ``position`` is outside of the image or was not captured.
    """
    check_positions([position], *image.shape[:2])
    tile = _overlay(image, _heat(weights_of(layer, position, len(image))[index]), tile_size)
    mapped = position_on_map(position, len(image), *layer.shape)
    _draw_mark(ImageDraw.Draw(tile), (0, 0), mapped, layer.shape, tile_size)
    return tile


def branch_tiles(layer: CapturedAttention, *, index: int = 0, tile_size: int = 192) -> tuple[Image.Image, Image.Image]:
    """Draw a layer's outputs by convolution only and by attention only, before they are blended.

    An output with three channels in [-1, 1] is shown as an image. Otherwise the first three principal components of
    both outputs together become red, green and blue: similar colors mean similar features in both.

    Args:
        layer: From `capture_attention`.
        index: Index of the image in the captured batch.
        tile_size: Height and width of the tiles [pixels].

    Reference:
        Principal components as colors: Caron et al., arXiv:2104.14294; Oquab et al., arXiv:2304.07193, figure 1.
    """
    maps = torch.stack([layer.plain[index], layer.gathered[index]]).float().cpu()
    if maps.shape[1] != 3 or maps.abs().max() > 1:
        maps = _principal_colors(maps)
    plain, gathered = (_enlarged(pixels, tile_size) for pixels in to_uint8(maps))
    return plain, gathered


def _principal_colors(
    maps: Float[Tensor, "maps channels height width"],
) -> Float[Tensor, "maps channels height width"]:
    """Project all positions on their three principal components, each from -1 to 1."""
    positions = maps.movedim(1, -1).flatten(0, -2).double()
    positions = positions - positions.mean(0)
    _, components = torch.linalg.eigh(positions.T @ positions)
    components = components[:, -3:].flip(1)
    # The sign of an eigenvector is arbitrary: make its largest entry positive, or colors would depend on the library.
    signs = components.gather(0, components.abs().argmax(0, keepdim=True)).sign()
    colors = positions @ (components * signs)
    colors = colors / colors.abs().amax(0).clamp(min=1e-12)
    colors = torch.nn.functional.pad(colors, (0, 3 - colors.shape[1]))
    return colors.float().unflatten(0, (len(maps), *maps.shape[2:])).movedim(-1, 1)


def weights_of(
    layer: CapturedAttention, position: Position, image_size: int
) -> Float[np.ndarray, "batch height width"]:
    """Return the maps of the query at a pixel of the image, averaged over heads.

    Raises:
        ValueError: It was not captured.
    """
    mapped = position_on_map(position, image_size, *layer.shape)
    if mapped not in layer.positions:
        raise ValueError(f"position {position} was not captured; pass it to capture_attention")
    return layer.weights[:, :, layer.positions.index(mapped)].mean(1).cpu().numpy()


def times_uniform(weights: Float[np.ndarray, "height width"]) -> float:
    """Return the largest weight as a multiple of uniform attention."""
    return float(weights.max() * weights.size)


def _maps_of(
    name: str, layer: CapturedAttention, position: Position, images: UInt8[np.ndarray, "batch height width channels"]
) -> Float[np.ndarray, "batch height width"]:
    if len(layer.weights) != len(images):
        raise ValueError(f"there are {len(images)} images, but {name} was captured with {len(layer.weights)}")
    try:
        return weights_of(layer, position, images.shape[1])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _heat(weights: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "height width"]:
    return weights / weights.max()


def _heat_tile(weights: Float[np.ndarray, "height width"], size: int) -> Image.Image:
    return _enlarged(heat_colors(_heat(weights)), size)


def _enlarged(pixels: UInt8[np.ndarray, "height width channels"], size: int) -> Image.Image:
    """Enlarge by nearest neighbor, to show a map's actual positions without interpolation."""
    return Image.fromarray(as_rgb(pixels)).resize((size, size), Image.Resampling.NEAREST)


def _overlay(
    pixels: UInt8[np.ndarray, "height width channels"], heat: Float[np.ndarray, "map_height map_width"], size: int
) -> Image.Image:
    """Overlay a heat map on an image, which is shown in gray so that color means attention."""
    gray = _enlarged(pixels, size).convert("L").convert("RGB")
    opacity = np.interp(heat, (0, 1), _HEAT_OPACITY)
    mask = Image.fromarray((255 * opacity).round().astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)
    return Image.composite(_enlarged(heat_colors(heat), size), gray, mask)


def _draw_mark(draw: ImageDraw.ImageDraw, corner: Position, position: Position, shape: Position, size: int) -> None:
    """Frame one position of a map that is shown at ``size`` pixels."""
    (left, top), (row, column), (height, width) = corner, position, shape
    box = [
        left + column * size // width,
        top + row * size // height,
        left + (column + 1) * size // width - 1,
        top + (row + 1) * size // height - 1,
    ]
    draw.rectangle([box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1], outline=(0, 0, 0))
    draw.rectangle(box, outline=_MARK, width=2)


def _label_width(font: Any, captured: Mapping[str, CapturedAttention], title: str) -> int:
    texts = [title, *captured, "gate +0.000", "pixel (000, 000)"]
    return math.ceil(max(font.getlength(text) for text in texts)) + 2 * _GAP


def _draw_label(draw: ImageDraw.ImageDraw, font: Any, top: int, lines: Sequence[str]) -> None:
    for index, text in enumerate(lines):
        draw.text((_GAP, top + index * _LINE_HEIGHT), text, _FAINT_INK if index else _INK, font)


def _draw_scale(
    picture: Image.Image, draw: ImageDraw.ImageDraw, font: Any, corner: Position, width: int, height: int = 12
) -> None:
    """Draw the color scale, above and to the right of a corner."""
    left, bottom = corner
    ramp = np.tile(np.linspace(0, 1, width), (height, 1))
    picture.paste(Image.fromarray(heat_colors(ramp)), (left, bottom - height))
    text_bottom = bottom - height - 4
    draw.text((left, text_bottom), "0", _FAINT_INK, font, anchor="ls")
    draw.text((left + width // 2, text_bottom), "attention", _FAINT_INK, font, anchor="ms")
    draw.text((left + width, text_bottom), "max", _FAINT_INK, font, anchor="rs")


def turned(
    found: Mapping[str, nn.Parameter], alpha: float, layers: Sequence[str] | None, is_relative: bool
) -> dict[str, float]:
    """Return the overridden value of each gate.

    Args:
        found: From `gates`.
        alpha: New value of the gates, or factor on them.
        layers: Layers to override, with or without their gates' names; by default all.
        is_relative: Whether ``alpha`` multiplies the trained gates.
    """
    trained = {key: gate.item() for name, gate in found.items() for key in (name, name.rpartition(".")[0])}
    return {name: alpha * trained.get(name, 1.0) if is_relative else alpha for name in layers or found}


def alpha_strip(
    generator: Generator,
    latents: Float[Tensor, "count latent_dim"],
    labels: Float[Tensor, "count num_labels"] | None = None,
    alphas: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    layers: Sequence[str] | None = None,
    *,
    is_relative: bool = False,
    row_names: Sequence[str] = (),
    tile_size: int = 96,
) -> Image.Image:
    """Generate the same latents with other gates: a row per latent, a column per gate, the first one as trained.

    Batch norm keeps its statistics for the trained gates.

    Args:
        generator: On any device, in any mode.
        latents: At least one.
        labels: One per latent, for a conditional generator.
        alphas: Gate values, for all layers or for ``layers``.
        layers: Names such as ``"layers.2"`` of the layers to override; by default all.
        is_relative: Whether ``alphas`` multiply the trained gates instead of replacing them.
        row_names: Caption of each row; by default none.
        tile_size: Height and width of each displayed image [pixels], rounded to a multiple of the image size.

    Raises:
        ValueError: There are no latents, no alphas, no such layer or none with attention, or an alpha is not finite.
    """
    if not len(latents) or not alphas:
        raise ValueError(f"{len(latents)} latents and {len(alphas)} alphas; there must be at least one of each")
    found = gates(generator)
    is_trained = all(current_gate(gate) is gate for gate in found.values())
    sign = "x " if is_relative else ""
    headings = ["trained" if is_trained else "as given", *(f"{sign}{alpha:g}" for alpha in alphas)]
    strips = [generate_images(generator, latents, labels, progress=False)]
    for alpha in alphas:
        with override_alpha(generator, turned(found, alpha, layers, is_relative)):
            strips.append(generate_images(generator, latents, labels, progress=False))
    size = generator.config.image_size
    size *= max(1, round(tile_size / size))
    font = ImageFont.load_default(size=_FONT_SIZE)
    margin = _GAP + (math.ceil(max(map(font.getlength, row_names))) + _GAP if row_names else 0)
    top = _GAP + _LINE_HEIGHT
    step = size + 2
    picture = Image.new("RGB", (margin + len(strips) * step + 2 * _GAP, top + len(latents) * step + _GAP), _PAPER)
    draw = ImageDraw.Draw(picture)
    for column, (heading, images) in enumerate(zip(headings, strips, strict=True)):
        left = margin + column * step + (_GAP if column else 0)  # a gap after the trained column
        draw.text((left + size // 2, 4), heading, _INK, font, anchor="ma")
        for row, image in enumerate(images):
            picture.paste(_enlarged(image, size), (left, top + row * step))
    for row, name in enumerate(row_names):
        draw.text((_GAP, top + row * step + size // 2), name, _FAINT_INK, font, anchor="lm")
    return picture
