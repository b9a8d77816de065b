"""Serving on Hugging Face Inference Endpoints: JSON in, images out.

A repository's ``handler.py`` only imports `EndpointHandler`. Hugging Face's inference toolkit
(github.com/huggingface/huggingface-inference-toolkit) loads that file and creates one handler for the repository's
folder (``utils.py``). For every request it calls the handler with the JSON body, and serializes the result according to
the request's ``Accept`` header; an exception becomes status 400 with ``{"error": <its message>}``
(``webservice_starlette.py``). A body must have ``inputs``, and a query string replaces missing ``parameters``.
"""

import base64
import secrets
import threading
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, cast

from PIL import Image
from pydantic import Discriminator, Tag

from fagan_hf.architectures.own_code import import_from_environment
from fagan_hf.models import Generator
from fagan_hf.pipeline import FAGANPipeline, FAGANPipelineOutput
from fagan_hf.requests import (
    MARKS,
    MAX_SHOWN,
    MAX_TEXT,
    Allowed,
    Alpha,
    Flag,
    Labels,
    Request,
    SeedNumber,
    Truncation,
    check_characters,
    check_extent,
    read_seeds,
    shown,
)
from fagan_hf.sampling.images import LabelSpec
from fagan_hf.utils.devices import find_device

MAX_IMAGES = 64  # per request
MAX_PIXELS = 2**22  # per request, over all images; a single image is generated whatever its size
CHUNK_SIZE = 16  # images per forward pass

_EXAMPLE = '{"inputs": "0-15, 42", "parameters": {"truncation": 0.7}}'


class EndpointHandler:
    """Handles the requests to an endpoint, one at a time.

    Files and modules in the environment's variable ``FAGAN_IMPORT``, separated by commas, are imported first: a model
    with custom layers needs the code that registers them.

    Args:
        path: Folder of the model repository.

    Raises:
        FileNotFoundError: There is no such folder, or see `Generator.from_pretrained`.
        ValueError: See `Generator.from_pretrained`; or something in ``FAGAN_IMPORT`` can't be imported.

    Example:
        >>> handler = EndpointHandler("runs/avatars-32")  # doctest: +SKIP
        >>> handler({"inputs": "0-3", "parameters": {"truncation": 0.7}})["seeds"]  # doctest: +SKIP
        [0, 1, 2, 3]
    """

    def __init__(self, path: str | Path = ""):
        folder = Path(path)
        if not folder.is_dir():  # otherwise it would be interpreted as a Hub id
            raise FileNotFoundError(f"{str(path)!r} is not a folder; give the folder of a downloaded model repository")
        import_from_environment()
        self._pipe = FAGANPipeline.from_pretrained(folder).to(find_device(None))
        # Threads could generate concurrently, but each would need its own memory for batches and recalibration; one
        # request at a time bounds the memory by that of a single request.
        self._lock = threading.Lock()

    def __call__(self, data: Any) -> dict[str, Any] | Image.Image:
        """Generate the images of a request.

        Args:
            data: The JSON body: ``inputs``, which is text such as ``"0-15, 42"`` for seeds, a mapping of parameters, or
                empty (``null`` or ``""``); and optionally ``parameters``, a mapping of more parameters:

                - ``seeds``: a list of whole numbers, or text as above.
                - ``num_images``: number of images from random seeds, instead of ``seeds``; by default 1.
                - ``truncation``, ``labels``, ``alpha``: as in `FAGANPipeline`. A truncation other than that of the
                  last request is recalibrated first, which takes about as long as 1,024 images.
                - ``as_image``: if true, the response is the single image itself, for requests with
                  ``Accept: image/png``.

                ``null`` is the same as leaving a parameter out.

        Returns:
            ``{"images": [...], "seeds": [...]}``: each image as a PNG file in base64, and its seed, which reproduces
            it. With ``as_image`` an image, which the toolkit serializes.

        Raises:
            ValueError: The request is not as described, or exceeds a limit of this module.
        """
        request = _read_request(data, self._pipe.generator)
        with self._lock:
            output = self._pipe(
                seeds=request.seeds,
                truncation=request.truncation,
                labels=request.labels,
                alpha=request.alpha,
                chunk_size=CHUNK_SIZE,
            )
        images = cast("list[Image.Image]", cast("FAGANPipelineOutput", output).images)
        return images[0] if request.as_image else {"images": [*map(_png_text, images)], "seeds": request.seeds}


def _png_text(image: Image.Image) -> str:
    file = BytesIO()
    image.save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


_SEED_WORDS = f'a list like [0, 42], or text like "0-15, 42" of at most {MAX_TEXT:,} characters'
_LABEL_WORDS = "a JSON object of names and values, or a list with one for each picture"
_ONE, _LIST = MARKS
_Seeds = Annotated[
    Annotated[str, Allowed(_SEED_WORDS, {"strict": True, "max_length": MAX_TEXT}), Tag(_ONE)]
    | Annotated[list[SeedNumber], Allowed(_SEED_WORDS, {"min_length": 1, "max_length": 10_000}), Tag(_LIST)],
    Discriminator(lambda value: _LIST if isinstance(value, list) else _ONE),
]
_Labels = Annotated[
    Annotated[Labels, Allowed(_LABEL_WORDS), Tag(_ONE)]
    | Annotated[list[Labels], Allowed(_LABEL_WORDS, {"max_length": MAX_IMAGES}), Tag(_LIST)],
    Discriminator(lambda value: _LIST if isinstance(value, list) else _ONE),
]


class _Envelope(Request):
    inputs: Annotated[str | dict[str, Any] | None, Allowed('a JSON object, text with seeds like "0-15, 42", or null')]
    parameters: Annotated[dict[str, Any] | None, Allowed("a JSON object")] = None


class _Parameters(Request):
    seeds: _Seeds | None = None
    num_images: Annotated[int, Allowed("a whole number of at least 1", {"strict": True, "ge": 1})] | None = None
    truncation: Truncation = 1.0
    labels: _Labels | None = None
    alpha: Alpha | None = None
    as_image: Flag = False


@dataclass(frozen=True)
class _Task:
    seeds: list[int]
    truncation: float
    labels: LabelSpec | None
    alpha: float | dict[str, float] | None
    as_image: bool


def _read_request(data: Any, generator: Generator) -> _Task:
    check_extent(data)
    check_characters(data)
    given = _Parameters.read(_read_parameters(data))
    seeds = _choose_seeds(given, generator.config.image_size)
    if given.as_image and len(seeds) != 1:
        raise ValueError(f"as_image is true for {len(seeds)} pictures; ask for one, or leave it out to get a list")
    labels = _check_labels(given.labels or None, len(seeds), generator)
    return _Task(seeds, given.truncation, labels, given.alpha, given.as_image)


def _read_parameters(data: Any) -> dict[str, Any]:
    """Collect the parameters from both places; null ones are left out."""
    try:
        envelope = _Envelope.read(data)
    except ValueError as error:
        misplaced = [name for name in _Parameters.model_fields if isinstance(data, dict) and name in data]
        where = f'; {misplaced[0]} belongs in "parameters"' if misplaced else ""
        raise ValueError(f"{error}{where}; send it like {_EXAMPLE}") from None
    inputs = envelope.inputs
    if isinstance(inputs, str):
        inputs = {"seeds": inputs} if inputs.strip() else {}
    given: dict[str, Any] = {}
    for part in (inputs or {}, envelope.parameters or {}):
        for name, value in part.items():
            if name in given:
                raise ValueError(f'{name[:MAX_SHOWN]} is in "inputs" and in "parameters"; give it once')
            given[name] = value
    return {name: value for name, value in given.items() if value is not None or name not in _Parameters.model_fields}


def _choose_seeds(given: _Parameters, size: int) -> list[int]:
    """Return the given seeds, or random ones: torch's global generator would start in the same state everywhere."""
    if given.seeds is None:
        count = given.num_images or 1
        _check_count(count, size)
        return [secrets.randbelow(2**32) for _ in range(count)]
    if given.num_images is not None:
        raise ValueError("seeds and num_images are mutually exclusive; give only one of them")
    seeds = read_seeds(given.seeds) if isinstance(given.seeds, str) else given.seeds
    _check_count(len(seeds), size)
    return seeds


def _check_count(count: int, size: int) -> None:
    most = max(1, min(MAX_IMAGES, MAX_PIXELS // size**2))
    if count > most:
        limit = f"MAX_IMAGES is {MAX_IMAGES}" if most == MAX_IMAGES else f"MAX_PIXELS is {MAX_PIXELS:,}"
        raise ValueError(
            f"{shown(count)} pictures of {size} x {size} pixels are too many for a request: {limit}; "
            f"ask for at most {most} at a time"
        )


def _check_labels(labels: Any, count: int, generator: Generator) -> LabelSpec | None:
    """Check that the model takes labels, and their number; the pipeline checks their names."""
    if labels is not None and not generator.config.label_names:
        raise ValueError(f"labels are {shown(labels)}, but this model is unconditional; leave labels out")
    if isinstance(labels, list) and len(labels) != count:
        raise ValueError(
            f"there are {len(labels)} label objects for {count} pictures; give one for all, or one for each"
        )
    return labels
