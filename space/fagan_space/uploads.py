"""Uploaded images: checked before decoding, reduced to the model's size, and deleted from disk.

Example images can be clicked instead.
"""

import threading
from pathlib import Path

import gradio as gr

from fagan_hf.data.decode import decode_image
from fagan_space.border import GalleryItem, Nothing, UploadTab, takes
from fagan_space.controls import AT_HAND, DECODES, Event
from fagan_space.decoding import Picture, decoded
from fagan_space.files import keep
from fagan_space.limits import PREVIEW_SECONDS
from fagan_space.models import Model

NO_PICTURE = "there is no image yet; upload or paste one, or click an example"
EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.png"))


def example_picture(model: Model, index: int) -> Picture:
    """Return an example as uploads are: of the model's size and channels."""
    return decode_image(EXAMPLES[index], resolution=model.size, channels=model.channels, upscale=True)


def upload_box(label: str) -> gr.Image:
    """Make an upload component that passes on the path of the unmodified file."""
    return gr.Image(label=label, type="filepath", image_mode=None, sources=["upload", "clipboard"], height=280)


def example_gallery() -> gr.Gallery:
    """Make a row of example images to click."""
    return gr.Gallery(
        [str(keep(path)) for path in EXAMPLES],
        label="Or click an example",
        columns=len(EXAMPLES),
        height="auto",
        allow_preview=False,
        interactive=False,
        elem_classes="small",
        buttons=[],
    )


def on_picture(box: gr.Image, examples: gr.Gallery, taken: gr.State, model: Model, event: Event) -> None:
    """Run an event whenever an image is uploaded or an example is clicked.

    Args:
        box: An `upload_box`; it is cleared afterwards, because its file is deleted.
        examples: An `example_gallery`.
        taken: State that receives the image.
        model: The model that determines its size and channels.
        event: The event to run then.
    """

    @takes(UploadTab)
    def read(path: Path | None) -> Picture:
        return take_upload(path, model.size, model.channels, kept_seconds=PREVIEW_SECONDS)

    @takes(Nothing, click=GalleryItem)
    def take_example(chosen: gr.SelectData) -> Picture:
        if chosen.index >= len(EXAMPLES):
            raise ValueError(f"there are only {len(EXAMPLES)} examples")
        return example_picture(model, chosen.index)

    @takes(Nothing)
    def nothing() -> None:
        return None

    brought = box.upload(read, box, taken, **DECODES)
    brought.success(**event)
    for over in (brought.success, brought.failure):  # the page does not run what is to be done `then` after a failure
        over(nothing, None, box, **AT_HAND)
    examples.select(take_example, None, taken, **DECODES).success(**event)


def take_upload(path: Path | None, size: int, channels: int = 3, *, kept_seconds: float = 0.0) -> Picture:
    """Decode a visitor's file as training decodes images, and delete it.

    Args:
        path: As returned by `Visitor.find`: never a path from a request.
        size: Height and width of the result [pixels].
        channels: 1 for grayscale, 3 for RGB, 4 for RGBA with premultiplied alpha.
        kept_seconds: How long the file stays, because the browser displays it until the box is cleared.

    Returns:
        Its center square, upright.

    Raises:
        ValueError: There is no file, it is too large, or it can't be read as an image.
    """
    if path is None:
        raise ValueError(NO_PICTURE)
    try:
        with path.open("rb") as file:
            return decoded(file, size, channels)
    except FileNotFoundError:
        raise ValueError("the image has been deleted; upload it again") from None
    finally:
        if kept_seconds:
            timer = threading.Timer(kept_seconds, path.unlink, kwargs={"missing_ok": True})
            timer.daemon = True  # the page deletes all its files at exit anyway
            timer.start()
        else:
            path.unlink(missing_ok=True)
