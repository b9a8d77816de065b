"""Input validation: what each endpoint and event of the page accepts, checked before anything else happens.

A function declares its inputs with `takes`; building a page with an undeclared function fails. Fields are in the order
of the function's inputs; `chosen`, if present, collects the remaining ones: strengths of directions, and label classes.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Discriminator, Tag, ValidationInfo

from fagan_hf.requests import (
    MARKS,
    MAX_TEXT,
    Allowed,
    Alpha,
    AlphaNumber,
    Flag,
    Labels,
    Name,
    Request,
    SeedNumber,
    Strength,
    Strengths,
    Truncation,
    number,
    refuse,
    text,
    whole,
)
from fagan_space.errors import in_words
from fagan_space.limits import MAX_FRAMES, MAX_IMAGES, MAX_STEPS

Function = TypeVar("Function", bound=Callable[..., Any])

MAX_SIDE = 1024  # of a model's images [pixels]
SUFFIXES = (".gif", ".mp4")
_NO_FILE = "is not a file that you uploaded; upload one with gradio_client's handle_file('picture.png')"


def _uploaded(value: Any, info: ValidationInfo) -> Path:
    """Find the visitor's own upload by the path that was returned for it."""
    path = value.get("path") if isinstance(value, dict) else None
    found = info.context.find(path) if info.context is not None and isinstance(path, str) else None
    if found is None:
        refuse(_NO_FILE)
    return found


Seeds = Annotated[str, text(MAX_TEXT, "text like '0-15, 42',")]
Suffix = Annotated[Literal[".gif", ".mp4"], Allowed(" or ".join(SUFFIXES))]
Place = Annotated[int, whole(0, MAX_SIDE - 1)]
Frames = Annotated[int, whole(1, MAX_FRAMES)]
Seconds = Annotated[float, number(0.1, 600)]
Steps = Annotated[int, whole(1, MAX_STEPS)]
_MANY = {"max_length": 200}
Chosen = Annotated[list[Name], Allowed("at most 200 names of classes", _MANY)]
_Move = Annotated[
    Annotated[Strength, Tag(MARKS[0])] | Annotated[Name, Tag(MARKS[1])],
    Discriminator(lambda value: MARKS[1] if isinstance(value, str) else MARKS[0]),
]
Moves = Annotated[list[_Move], Allowed("at most 200 strengths and names of classes", _MANY)]
Upload = Annotated[Any, BeforeValidator(_uploaded)]


class Nothing(Request):
    """No input."""


# Endpoints, for programs.


class Generate(Request):
    """Images for seeds."""

    seeds: Seeds = "0-15"
    truncation: Truncation = 1.0
    labels: Labels | None = None
    alpha: Alpha | None = None
    strengths: Strengths | None = None


class Walk(Request):
    """An interpolation video from seed to seed."""

    seeds: Seeds = "0-3"
    frames_per_step: Frames = 24
    seconds: Seconds = 6.0
    suffix: Suffix = ".gif"
    is_loop: Flag = True


class LookInside(Request):
    """Where the generator's layers attend."""

    seed: SeedNumber = 0
    row: Place = 0
    column: Place = 0
    labels: Labels | None = None


class Judge(Request):
    """The discriminator's logit for an image."""

    picture: Upload
    row: Place = 0
    column: Place = 0
    labels: Labels | None = None


class Dial(Request):
    """A strip of images at a range of gate values."""

    seeds: Seeds = "0"
    layer: Name | None = None
    is_relative: Flag = False
    labels: Labels | None = None


class Project(Request):
    """The latent of an image."""

    picture: Upload
    steps: Steps = 100
    strengths: Strengths | None = None
    labels: Labels | None = None


class Compare(Request):
    """Two models with the same seeds."""

    left: Name
    right: Name
    seeds: Seeds = "0-15"
    truncation: Truncation = 1.0


# Events of the tabs.


class GenerateTab(Request):
    """Images for seeds: a strength for each direction, then the labels."""

    seeds: Seeds
    truncation: Truncation
    is_trained: Flag
    alpha: AlphaNumber
    chosen: Moves


class GatesTab(Request):
    """Whether the gates stay as trained; otherwise the alpha slider is shown."""

    is_trained: Flag


class OthersTab(Request):
    """The number of new seeds."""

    count: Annotated[int, whole(1, MAX_IMAGES)]


class WalkTab(Request):
    """An interpolation video from seed to seed."""

    seeds: Seeds
    frames: Frames
    seconds: Seconds
    suffix: Suffix
    is_loop: Flag
    chosen: Chosen


class LookTab(Request):
    """Where the generator's layers attend."""

    seed: SeedNumber
    chosen: Chosen


class JudgeTab(Request):
    """The discriminator's logit for the image in the session state."""

    chosen: Chosen


class DialTab(Request):
    """A strip of images at a range of gate values."""

    seeds: Seeds
    layer: Name
    is_relative: Flag
    chosen: Chosen


class ProjectTab(Request):
    """The latent of the image in the session state."""

    steps: Steps
    chosen: Chosen


class MoveTab(Request):
    """Edits of the projected latent: a strength for each direction, then the labels."""

    chosen: Moves


class SeedsTab(Request):
    """The seeds on the page."""

    seeds: Seeds


class SeedTab(Request):
    """A single seed."""

    seed: SeedNumber


class CompareTab(Request):
    """Two models with the same seeds."""

    left: Name
    right: Name
    seeds: Seeds
    truncation: Truncation


class UploadTab(Request):
    """An uploaded image."""

    picture: Upload | None


# Click data, for events that need it.


class GalleryItem(Request):
    """A picture of a gallery, by its place."""

    index: Annotated[int, whole(0, 100)]


def takes(inputs: type[Request], click: type[Request] | None = None) -> Callable[[Function], Function]:
    """Declare the inputs of a function of the page, and turn its exceptions into readable messages.

    Args:
        inputs: Its inputs, except for session state (`gr.State`).
        click: Its click data, if it needs any.
    """

    def declared(function: Function) -> Function:
        guarded: Any = in_words(function)
        guarded.takes, guarded.takes_click = inputs, click
        return guarded

    return declared


def check(request: type[Request], values: Sequence[Any], uploads: Any) -> list[Any]:
    """Check values in the order of a request's fields.

    Args:
        request: The expected fields.
        values: The values received.
        uploads: Whose uploads may be used, see `fagan_space.visitors.Visitor`.

    Returns:
        The checked values.

    Raises:
        ValueError: There are too few or too many values, or one is not allowed; the message is for the visitor.
    """
    names = [*request.model_fields]
    rest = "chosen" in names
    single = names[:-1] if rest else names
    least = sum(request.model_fields[name].is_required() for name in single)
    if len(values) < least or (len(values) > len(single) and not rest):
        raise ValueError(f"{len(values)} values were sent; {len(single)} are expected: {', '.join(single) or 'none'}")
    given = dict(zip(single, values, strict=False)) | ({"chosen": [*values[len(single) :]]} if rest else {})
    checked = request.read(given, context=uploads)
    found = [getattr(checked, name) for name in single]
    return [*found, *checked.chosen] if rest else found  # pyright: ignore[reportAttributeAccessIssue]
