"""A picture to point at: the page draws where every layer looks from there, without asking the server again.

The attention maps of all positions are sent once, in bytes; `attention_view.js` draws them.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from fagan_hf.attention_maps.capture import CapturedAttention
from fagan_hf.attention_maps.pictures import branch_tiles, heat_colors
from fagan_hf.attention_maps.positions import Position
from fagan_hf.viz.colors import as_rgb

MAX_QUERIES = 64  # in height and width; of a larger picture the nearest of so many places is shown
MAX_LAYER_BYTES = 2**18  # of the maps of one layer: those of further positions are left out evenly

_HERE = Path(__file__).resolve().parent


def queries(image_size: int) -> list[Position]:
    """Return the pixels whose attention is sent, row by row: all of a small image, else an even grid."""
    side = min(image_size, MAX_QUERIES)
    places = [index * image_size // side for index in range(side)]
    return [(row, column) for row in places for column in places]


def view_of(
    image: UInt8[np.ndarray, "height width channels"],
    captured: Mapping[str, CapturedAttention],
    *,
    seed: int | None = None,
    wholes: Mapping[str, Sequence[UInt8[np.ndarray, "height width channels"]]] | None = None,
) -> dict[str, Any]:
    """Pack what the page needs to show a picture and what its layers did, in JSON.

    Args:
        image: The network's output or input.
        captured: From `capture_attention` at `queries`, of this one image.
        seed: The picture's seed, for links; ``None`` for an upload.
        wholes: For each layer the whole picture with its gate at 0, as trained, and at 1.
    """
    layers = []
    for name, layer in captured.items():
        maps, shape = _maps_of(layer, len(image))
        peaks = maps.max(axis=1)
        scaled = np.round(255 * maps / np.maximum(peaks, 1e-30)[:, None]).astype(np.uint8)
        layers.append(
            {
                "name": name,
                "alpha": layer.gate,
                "places": list(layer.shape),
                "queries": list(shape),
                "keys": list(layer.weights.shape[-2:]),
                "maps": _base64(scaled.tobytes()),
                "peaks": _base64((peaks * maps.shape[1]).astype("<f4").tobytes()),  # times uniform attention
                "branches": [_data_url(each) for each in branch_tiles(layer, tile_size=max(64, len(image)))],
                "wholes": [_data_url(Image.fromarray(as_rgb(each))) for each in (wholes or {}).get(name, ())],
            }
        )
    return {
        "size": len(image),
        "seed": seed,
        "pixels": _base64(np.ascontiguousarray(as_rgb(image)).tobytes()),
        "layers": layers,
        "colors": _base64(heat_colors(np.linspace(0, 1, 256)[None]).tobytes()),
    }


def _maps_of(layer: CapturedAttention, image_size: int) -> tuple[Float[np.ndarray, "queries keys"], Position]:
    """Return the maps of a grid of positions, averaged over heads, and the grid's shape."""
    captured = layer.weights[0].mean(0).flatten(1).cpu().numpy()
    index = {position: place for place, position in enumerate(layer.positions)}
    rows = sorted({row for row, _ in layer.positions})
    columns = sorted({column for _, column in layer.positions})
    stride = 1
    while len(rows[::stride]) * len(columns[::stride]) * captured.shape[1] > MAX_LAYER_BYTES and stride < len(rows):
        stride *= 2
    rows, columns = rows[::stride], columns[::stride]
    return captured[[index[row, column] for row in rows for column in columns]], (len(rows), len(columns))


def attention_view(label: str, *, chosen: int) -> gr.HTML:
    """Make the component; its value is that of `view_of`.

    Args:
        label: Name of the picture, for screen readers.
        chosen: Index of the layer that is shown first; negative ones count from the last.
    """
    return gr.HTML(
        None,
        html_template=(_HERE / "attention_view.html").read_text(encoding="utf-8"),
        css_template=(_HERE / "attention_view.css").read_text(encoding="utf-8"),
        js_on_load=(_HERE / "attention_view.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        elem_classes="attention-view",
        picture_label=label,
        chosen=chosen,
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _data_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return f"data:image/png;base64,{_base64(file.getvalue())}"
