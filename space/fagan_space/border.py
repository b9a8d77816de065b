"""The border: what each endpoint and each event of the page takes, checked before anything else happens.

A function says by `takes` which of these it expects; the page refuses to be built with one that doesn't. Fields stand
in the order of the function's inputs, and `chosen`, where there is one, holds what is left: the label dropdowns.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationInfo

from fagan_hf.requests import (
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

MAX_SIDE = 1024  # [pixels] of a model's pictures
SUFFIXES = (".gif", ".mp4")
_NO_FILE = "is not a file that you uploaded; upload one with gradio_client's handle_file('picture.png')"


def _uploaded(value: Any, info: ValidationInfo) -> Path:
    """Find the visitor's own upload, by the path that was given for it."""
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
Coordinate = Annotated[float, number(0, 10_000)]
Layer = Annotated[int, whole(1, 1_000)]
Chosen = Annotated[list[Name], Field(max_length=200)]
Upload = Annotated[Any, BeforeValidator(_uploaded)]


class Nothing(Request):
    """No input."""


# Endpoints, for programs.


class Generate(Request):
    """Pictures of seeds."""

    seeds: Seeds = "0-15"
    truncation: Truncation = 1.0
    labels: Labels | None = None
    alpha: Alpha | None = None


class Walk(Request):
    """A film from seed to seed."""

    seeds: Seeds = "0-3"
    frames_per_step: Frames = 24
    seconds: Seconds = 6.0
    suffix: Suffix = ".gif"
    is_loop: Flag = True


class LookInside(Request):
    """Where the generator's layers look."""

    seed: SeedNumber = 0
    row: Place = 0
    column: Place = 0
    labels: Labels | None = None


class Judge(Request):
    """What the discriminator says of a picture."""

    picture: Upload
    row: Place = 0
    column: Place = 0
    labels: Labels | None = None


class Dial(Request):
    """A strip of other gates."""

    seeds: Seeds = "0"
    layer: Name | None = None
    is_relative: Flag = False
    labels: Labels | None = None


class Project(Request):
    """A picture's latent."""

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
    """Pictures of seeds."""

    seeds: Seeds
    truncation: Truncation
    is_trained: Flag
    alpha: AlphaNumber
    chosen: Chosen


class GatesTab(Request):
    """Whether alpha is to be chosen."""

    is_trained: Flag


class OthersTab(Request):
    """Other seeds."""

    count: Annotated[int, whole(1, MAX_IMAGES)]


class WalkTab(Request):
    """A film from seed to seed."""

    seeds: Seeds
    frames: Frames
    seconds: Seconds
    suffix: Suffix
    is_loop: Flag
    chosen: Chosen


class LookTab(Request):
    """Where the generator's layers look."""

    seed: SeedNumber
    row: Place
    column: Place
    layer: Layer
    chosen: Chosen


class JudgeTab(Request):
    """What the discriminator says of the picture that is remembered."""

    row: Place
    column: Place
    layer: Layer
    chosen: Chosen


class DialTab(Request):
    """A strip of other gates."""

    seeds: Seeds
    layer: Name
    is_relative: Flag
    chosen: Chosen


class ProjectTab(Request):
    """The latent of the picture that is remembered."""

    steps: Steps
    chosen: Chosen


class MoveTab(Request):
    """The found latent, moved: a strength for each direction, then the labels."""

    chosen: Annotated[list[Strength | Name], Field(max_length=200)]


class CompareTab(Request):
    """Two models with the same seeds."""

    left: Name
    right: Name
    seeds: Seeds
    truncation: Truncation


class UploadTab(Request):
    """A picture that was brought."""

    picture: Upload | None


# What was clicked, for events that ask for it.


class Pixel(Request):
    """A pixel: x and y."""

    index: Annotated[list[Coordinate], Allowed("two numbers", {"min_length": 2, "max_length": 2})]


class Example(Request):
    """One of the page's examples, by its number."""

    index: Annotated[int, whole(0, 100)]


def takes(inputs: type[Request], click: type[Request] | None = None) -> Callable[[Function], Function]:
    """Declare what a function of the page takes; its errors are put in words.

    Args:
        inputs: Its inputs, but for those that the page itself remembers (`gr.State`).
        click: What was clicked, where it asks for that.
    """

    def declared(function: Function) -> Function:
        guarded: Any = in_words(function)
        guarded.takes, guarded.takes_click = inputs, click
        return guarded

    return declared


def check(request: type[Request], values: Sequence[Any], uploads: Any) -> list[Any]:
    """Check values in the order of a request's fields.

    Args:
        request: What is expected.
        values: What came.
        uploads: The visitor's, see `fagan_space.uploads.Visitor`.

    Returns:
        The values, checked.

    Raises:
        ValueError: They are too few, too many, or not allowed; in words.
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
