"""Pictures that visitors bring: looked at before they are decoded, made small, and gone from the disk.

Who has none at hand clicks an example.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fagan_hf.decode import UnusableImageError, decode_image, readable_formats
from fagan_space.controls import AT_HAND, COMPUTES, Event
from fagan_space.errors import in_words
from fagan_space.limits import MAX_UPLOAD_BYTES, MAX_UPLOAD_PIXELS

Picture = UInt8[np.ndarray, "3 size size"]
_REMEMBERED = 128  # pictures, as small as networks read them, and for as long as nobody sends others

NO_PICTURE = "there is no picture yet; drop one there, paste it, or click an example"
_EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.png"))


def upload_box(label: str) -> gr.Image:
    """Make a component for a picture of the visitor's, which gives the path of the file as it came.

    Gradio's own reading of it decodes pictures before anybody could look at their size.
    """
    box = gr.Image(label=label, type="filepath", image_mode=None, sources=["upload", "clipboard"], height=280)
    box.preprocess = _path_of  # pyright: ignore[reportAttributeAccessIssue]
    return box


def _path_of(payload: Any) -> str | None:
    return None if payload is None else payload.path


def example_gallery() -> gr.Gallery:
    """Make a row of pictures to click."""
    gr.set_static_paths(sorted({path.parent for path in _EXAMPLES}))  # no copies, which could be taken for uploads
    return gr.Gallery(
        [str(path) for path in _EXAMPLES],
        label="Or click one of these",
        columns=len(_EXAMPLES),
        height="auto",
        allow_preview=False,
        interactive=False,
        elem_classes="small",
        buttons=[],
    )


def on_picture(box: gr.Image, examples: gr.Gallery, taken: gr.State, size: int, event: Event) -> None:
    """Do something whenever a picture is brought, or an example chosen.

    Args:
        box: An `upload_box`; it is emptied, for its file is gone.
        examples: An `example_gallery`.
        taken: Where the picture is put.
        size: Height and width of what is put there [pixels].
        event: What is done then.
    """

    @in_words
    def read(path: str | None) -> Picture:
        return read_upload(path, size)

    @in_words
    def take_example(chosen: gr.SelectData) -> Picture:
        return decode_image(_EXAMPLES[chosen.index], resolution=size, crop=None, upscale=True)

    brought = box.upload(read, box, taken, **COMPUTES)
    brought.success(**event)
    brought.then(forget_upload, box, box, **AT_HAND)
    examples.select(take_example, None, taken, **COMPUTES).success(**event)


def take_upload(path: str | None, size: int) -> Picture:
    """Read an uploaded file and delete it; else as `read_upload`."""
    try:
        return read_upload(path, size)
    finally:
        forget_upload(path)


def forget_upload(path: str | None) -> None:
    """Delete an uploaded file."""
    if path is not None:
        Path(path).unlink(missing_ok=True)


def read_upload(path: str | None, size: int) -> Picture:
    """Read an uploaded file as training reads pictures.

    Args:
        path: Where the server has put it.
        size: Height and width of what is given [pixels].

    Returns:
        Its centre square, upright.

    Raises:
        ValueError: There is none, it is too large, or no picture.
    """
    if path is None:
        raise ValueError(NO_PICTURE)
    return _decoded(path, size)


@lru_cache(_REMEMBERED)
def _decoded(path: str, size: int) -> Picture:
    # Paths have the hash of the file's content: two visitors with the same picture have the same file, and the first
    # who is done deletes it.
    file = Path(path)
    if not file.is_file():
        raise ValueError("the picture is not here any more; send it again")
    if file.stat().st_size > MAX_UPLOAD_BYTES:
        raise ValueError(f"the file has {file.stat().st_size:,} bytes; send one of at most {MAX_UPLOAD_BYTES:,}")
    try:
        with Image.open(file, formats=readable_formats()) as image:  # reads no pixels yet
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"the picture has too many pixels ({error}); send one of at most {MAX_UPLOAD_PIXELS:,}"
        ) from error
    except Exception as error:  # damaged files make Pillow raise nearly anything
        raise ValueError("that is no picture that can be read here; send a PNG, a JPEG or a WebP") from error
    if width * height > MAX_UPLOAD_PIXELS:
        raise ValueError(f"the picture has {width:,} x {height:,} pixels; send one of at most {MAX_UPLOAD_PIXELS:,}")
    try:
        return decode_image(file, resolution=size, crop=None, upscale=True)
    except UnusableImageError as error:
        raise ValueError(f"the picture {error}; send a PNG, a JPEG or a WebP") from error
