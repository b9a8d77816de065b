"""Pictures that visitors bring: looked at before they are decoded, made small, and gone from the disk.

Who has none at hand clicks an example.
"""

import threading
from pathlib import Path

import gradio as gr

from fagan_hf.data.decode import decode_image
from fagan_space.border import Example, Nothing, UploadTab, takes
from fagan_space.controls import AT_HAND, COMPUTES, Event
from fagan_space.decoding import Picture, decoded
from fagan_space.files import keep
from fagan_space.limits import PREVIEW_SECONDS

NO_PICTURE = "there is no image yet; upload or paste one, or click an example"
_EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.png"))


def upload_box(label: str) -> gr.Image:
    """Make a component for a picture of the visitor's, which gives the path of the file as it came."""
    return gr.Image(label=label, type="filepath", image_mode=None, sources=["upload", "clipboard"], height=280)


def example_gallery() -> gr.Gallery:
    """Make a row of pictures to click."""
    return gr.Gallery(
        [str(keep(path)) for path in _EXAMPLES],
        label="Or click an example",
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

    @takes(UploadTab)
    def read(path: Path | None) -> Picture:
        return take_upload(path, size, kept_seconds=PREVIEW_SECONDS)

    @takes(Nothing, click=Example)
    def take_example(chosen: gr.SelectData) -> Picture:
        if chosen.index >= len(_EXAMPLES):
            raise ValueError(f"there are only {len(_EXAMPLES)} examples")
        return decode_image(_EXAMPLES[chosen.index], resolution=size, crop=None, upscale=True)

    @takes(Nothing)
    def nothing() -> None:
        return None

    brought = box.upload(read, box, taken, **COMPUTES)
    brought.success(**event)
    brought.then(nothing, None, box, **AT_HAND)
    examples.select(take_example, None, taken, **COMPUTES).success(**event)


def take_upload(path: Path | None, size: int, *, kept_seconds: float = 0.0) -> Picture:
    """Read a visitor's file as training reads pictures, and delete it.

    Args:
        path: As `Visitor.find` found it: no path that came from outside.
        size: Height and width of what is given [pixels].
        kept_seconds: How long the file stays: a browser shows it until its box is emptied.

    Returns:
        Its center square, upright.

    Raises:
        ValueError: There is none, it is too large, or no picture.
    """
    if path is None:
        raise ValueError(NO_PICTURE)
    try:
        with path.open("rb") as file:
            return decoded(file, size)
    except FileNotFoundError:
        raise ValueError("the image has been deleted; upload it again") from None
    finally:
        if kept_seconds:
            timer = threading.Timer(kept_seconds, path.unlink, kwargs={"missing_ok": True})
            timer.daemon = True  # a page that ends clears all its files anyway
            timer.start()
        else:
            path.unlink(missing_ok=True)
