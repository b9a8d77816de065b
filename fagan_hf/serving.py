"""Serving on Hugging Face Inference Endpoints: JSON in, pictures out.

A repository's ``handler.py`` imports `EndpointHandler` and holds nothing else. Hugging Face's inference toolkit
(github.com/huggingface/huggingface-inference-toolkit) loads that file and makes one handler of the repository's folder
(``utils.py``). For every request it calls the handler with the JSON of the body, and serializes what comes back as the
request's ``Accept`` header says; of an exception it makes status 400 and ``{"error": <its message>}``
(``webservice_starlette.py``). A body must have ``inputs``, and a query string stands in for missing ``parameters``.
"""

import base64
import reprlib
import secrets
import threading
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, cast

from PIL import Image

from fagan_hf.devices import find_device
from fagan_hf.models import Generator
from fagan_hf.pipeline import FAGANPipeline, FAGANPipelineOutput
from fagan_hf.sampling import Wishes
from fagan_hf.seeds import MAX_SEED, parse_seeds
from fagan_hf.suggest import suggest

MAX_IMAGES = 64  # in a request
MAX_PIXELS = 2**22  # in a request, all pictures together; a single picture is drawn whatever its size
MAX_TEXT = 2_000  # characters of seeds
MAX_NAME = 200  # characters of the name or the value of a label, or of the name of a layer
MIN_TRUNCATION, MAX_TRUNCATION = 0.01, 2.0
MAX_ALPHA = 10.0  # either sign; far beyond what trained gates come to, and still without overflows
BATCH_SIZE = 16

_KEYS = ("inputs", "parameters")
_PARAMETERS = ("seeds", "num_images", "truncation", "labels", "alpha", "as_image")
_EXAMPLE = '{"inputs": "0-15, 42", "parameters": {"truncation": 0.7}}'

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


class EndpointHandler:
    """Answers the requests to an endpoint, one at a time.

    Args:
        path: Folder of the model repository.

    Raises:
        FileNotFoundError: There is no such folder, or see `Generator.from_pretrained`.
        ValueError: See `Generator.from_pretrained`.

    Example:
        >>> handler = EndpointHandler("runs/avatars-32")  # doctest: +SKIP
        >>> handler({"inputs": "0-3", "parameters": {"truncation": 0.7}})["seeds"]  # doctest: +SKIP
        [0, 1, 2, 3]
    """

    def __init__(self, path: str | Path = ""):
        folder = Path(path)
        if not folder.is_dir():  # otherwise it would be taken for a Hub id
            raise FileNotFoundError(f"{str(path)!r} is no folder; give the folder of a downloaded model repository")
        self._pipe = FAGANPipeline.from_pretrained(folder).to(find_device(None))
        # Threads could draw at the same time, but each needs memory of its own, for its batches and for measuring
        # truncations: one after the other, a server needs what one request needs.
        self._lock = threading.Lock()

    def __call__(self, data: Any) -> dict[str, Any] | Image.Image:
        """Draw what a request asks for.

        Args:
            data: The JSON of the body: ``inputs``, which is text such as ``"0-15, 42"`` for seeds, a mapping of
                parameters, or empty (``null`` or ``""``); and perhaps ``parameters``, a mapping of further ones:

                - ``seeds``: a list of whole numbers, or text as above.
                - ``num_images``: so many pictures of new seeds, instead of ``seeds``; by default 1.
                - ``truncation``, ``labels``, ``alpha``: as `FAGANPipeline` takes them. Another truncation than that
                  of the last request is measured first, which takes about as long as 1,024 pictures.
                - ``as_image``: if true, the answer is the one picture itself, for requests with ``Accept: image/png``.

                ``null`` is the same as leaving a parameter out.

        Returns:
            ``{"images": [...], "seeds": [...]}``: each picture as a PNG file in base64, and its seed, which draws it
            again. With ``as_image`` a picture, which the toolkit serializes.

        Raises:
            ValueError: The request is not as described, or asks for more than a limit of this module.
        """
        request = _read_request(data, self._pipe.generator)
        with self._lock:
            output = self._pipe(
                seeds=request.seeds,
                truncation=request.truncation,
                labels=request.labels,
                alpha=request.alpha,
                batch_size=BATCH_SIZE,
            )
        images = cast("list[Image.Image]", cast("FAGANPipelineOutput", output).images)
        return images[0] if request.as_image else {"images": [*map(_png_text, images)], "seeds": request.seeds}


def _png_text(image: Image.Image) -> str:
    file = BytesIO()
    image.save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


@dataclass(frozen=True)
class _Request:
    seeds: list[int]
    truncation: float
    labels: Wishes | None
    alpha: float | dict[str, float] | None
    as_image: bool


def _read_request(data: Any, generator: Generator) -> _Request:
    given = _read_parameters(data)
    seeds = _read_seeds(given, generator.config.image_size)
    return _Request(
        seeds=seeds,
        truncation=_number("truncation", given.get("truncation", 1.0), MIN_TRUNCATION, MAX_TRUNCATION),
        labels=_read_labels(given.get("labels"), len(seeds), generator),
        alpha=_read_alpha(given.get("alpha")),
        as_image=_read_as_image(given.get("as_image", False), len(seeds)),
    )


def _read_parameters(data: Any) -> dict[str, Any]:
    """Collect the parameters of both places; those that are null are left out."""
    inputs = _mapping("the request", data)
    for key in inputs:
        if key not in _KEYS:
            where = f'{key} belongs into "parameters"' if key in _PARAMETERS else _suggest(key, _KEYS)
            raise ValueError(f"the request has an unknown key {_shown(key)}; {where}; send it like {_EXAMPLE}")
    if "inputs" not in data:
        raise ValueError(f'the request has no "inputs"; send it like {_EXAMPLE}, or {{"inputs": null}} for any picture')
    inputs = data["inputs"]
    if isinstance(inputs, str):
        inputs = {"seeds": inputs} if inputs.strip() else {}
    given: dict[str, Any] = {}
    for place, part in (("inputs", inputs), ("parameters", data.get("parameters"))):
        for name, value in _mapping(place, {} if part is None else part).items():
            if name not in _PARAMETERS:
                raise ValueError(f"{place} has an unknown parameter {_shown(name)}; {_suggest(name, _PARAMETERS)}")
            if name in given:
                raise ValueError(f'{name} is in "inputs" and in "parameters"; give it once')
            given[name] = value
    return {name: value for name, value in given.items() if value is not None}


def _mapping(place: str, value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        also = ', text with seeds like "0-15, 42", or null' if place == "inputs" else ""
        raise ValueError(f"{place} is {_shown(value)}; it must be a JSON object{also}; send it like {_EXAMPLE}")
    return value


def _read_seeds(given: dict[str, Any], size: int) -> list[int]:
    """Find the seeds, or draw them: not by torch's global generator, which starts alike in every server."""
    if "seeds" not in given:
        count = given.get("num_images", 1)
        if not _is_whole(count) or count < 1:
            raise ValueError(f"num_images is {_shown(count)}; it must be a whole number of at least 1")
        _check_count(count, size)
        return [secrets.randbelow(2**32) for _ in range(count)]
    if "num_images" in given:
        raise ValueError("seeds and num_images exclude each other; give seeds, or how many new ones to draw")
    seeds = given["seeds"]
    if isinstance(seeds, str):
        seeds = _parse_seeds(seeds)
    if not isinstance(seeds, list) or not seeds:
        raise ValueError(f'seeds are {_shown(seeds)}; they must be a list like [0, 42], or text like "0-15, 42"')
    _check_count(len(seeds), size)
    for seed in seeds:
        if not _is_whole(seed) or not 0 <= seed <= MAX_SEED:
            raise ValueError(f"seed is {_shown(seed)}; it must be a whole number from 0 to {MAX_SEED}")
    return seeds


def _parse_seeds(text: str) -> list[int]:
    _check_length("seeds", text, MAX_TEXT)
    try:
        return parse_seeds(text)
    except ValueError:
        if len(text) <= MAX_NAME:
            raise
        # Its message would be as long as the text.
        raise ValueError(f"seeds are {_shown(text)}; write them like '0-15, 42', each at most {MAX_SEED}") from None


def _check_count(count: int, size: int) -> None:
    most = max(1, min(MAX_IMAGES, MAX_PIXELS // size**2))
    if count > most:
        limit = f"MAX_IMAGES is {MAX_IMAGES}" if most == MAX_IMAGES else f"MAX_PIXELS is {MAX_PIXELS:,}"
        raise ValueError(
            f"{_shown(count)} pictures of {size} x {size} pixels are too many for a request: {limit}; "
            f"ask for at most {most} at a time"
        )


def _read_labels(labels: Any, count: int, generator: Generator) -> Wishes | None:
    """Check form and lengths; which labels there are, the pipeline knows."""
    if not labels and isinstance(labels, dict | list | None):
        return None
    if not generator.config.label_names:
        raise ValueError(f"labels are {_shown(labels)}, but this model was trained without any; leave them out")
    rows = labels if isinstance(labels, list) else [labels]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError(
            f"labels are {_shown(labels)}; they must be a JSON object of names and values, or a list of such"
        )
    if isinstance(labels, list) and len(rows) != count:
        raise ValueError(
            f"labels are {len(rows)} for {count} pictures; give one object for all, or a list with one each"
        )
    for row in rows:
        for name, value in row.items():
            _check_label(name, value)
    return labels


def _check_label(name: Any, value: Any) -> None:
    _check_length("label", name, MAX_NAME)
    if isinstance(value, str):
        _check_length(f"label {name!r}", value, MAX_NAME)
    elif not isinstance(value, bool | int | float) or not -MAX_SEED <= value <= MAX_SEED:
        allowed = "true, false, a number from 0 to 1, or the name of a class"
        raise ValueError(f"label {name!r} is {_shown(value)}; it must be {allowed}")


def _read_alpha(alpha: Any) -> float | dict[str, float] | None:
    if alpha is None:
        return None
    if not isinstance(alpha, dict):
        return _number("alpha", alpha, -MAX_ALPHA, MAX_ALPHA, 'or an object like {"layers.2": 0.5}')
    for name in alpha:
        _check_length("layer", name, MAX_NAME)
    return {name: _number(f"alpha of {name!r}", value, -MAX_ALPHA, MAX_ALPHA) for name, value in alpha.items()}


def _read_as_image(value: Any, count: int) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"as_image is {_shown(value)}; it must be true or false")
    if value and count != 1:
        raise ValueError(f"as_image is true for {count} pictures; ask for one, or leave it out to get a list")
    return value


def _number(name: str, value: Any, lowest: float, highest: float, otherwise: str = "") -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value <= highest:
        allowed = f"a number from {lowest:g} to {highest:g}"
        raise ValueError(f"{name} is {_shown(value)}; it must be {' '.join(filter(None, [allowed, otherwise]))}")
    return float(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_length(name: str, text: Any, longest: int) -> None:
    if not isinstance(text, str) or len(text) > longest:
        length = f"{len(text):,} characters long" if isinstance(text, str) else _shown(text)
        raise ValueError(f"{name} is {length}; it must be text of at most {longest:,} characters")


def _suggest(name: Any, options: tuple[str, ...]) -> str:
    return suggest(str(name)[:MAX_NAME], options)  # matching takes long on long texts


def _shown(value: Any) -> str:
    """Shorten what arrived; of things that JSON doesn't know, say what they are, for their text may be anything."""
    is_json = value is None or isinstance(value, str | int | float | list | dict)
    return _SHORT.repr(value) if is_json else f"of type {type(value).__name__}"
