"""Validation of requests: types shared by the handler for Inference Endpoints and the Space.

A request is a `Request`: pydantic validates it before anything else happens. Error messages are readable: they quote
the value, truncated, and say what is allowed. Numbers must be finite; booleans and strings are not accepted as numbers.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NoReturn, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, GetCoreSchemaHandler, Strict, Tag, ValidationError
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from fagan_hf.sampling.seeds import MAX_SEED, parse_seeds
from fagan_hf.utils.suggest import suggest

MAX_SHOWN = 60  # characters of a value that an error quotes
MAX_TEXT = 2_000  # characters of seeds
MAX_NAME = 200  # characters of the name or the value of a label, or of the name of a layer
MAX_ENTRIES = 100  # labels, layers or directions in an object
MAX_VALUES = 12_000  # in a request, at all levels together
MIN_TRUNCATION, MAX_TRUNCATION = 0.01, 2.0
MAX_ALPHA = 10.0  # either sign; far beyond trained gates, yet without overflow
MAX_STRENGTH = 100.0  # either sign; far beyond where images still change

_WORDS = "words"  # the type of errors whose message is already readable
MARKS = _ONE, _OBJECT = "<one>", "<several>"  # tags of a union's members; error messages omit them


def shown(value: Any) -> str:
    """Format a value as JSON, truncated to `MAX_SHOWN` characters; for other objects return only the type."""
    if isinstance(value, str):
        value = value[: MAX_SHOWN + 1]
    pieces, length = [], 0
    try:
        for piece in json.JSONEncoder(ensure_ascii=False, check_circular=False).iterencode(value):
            pieces.append(piece[: MAX_SHOWN + 1])
            length += len(piece)
            if length > MAX_SHOWN:
                break
    except TypeError:
        return f"of type {type(value).__name__}"
    except (ValueError, RecursionError):  # a number with too many digits for Python; nested too deeply
        return "too large to be shown"
    text = "".join(pieces)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


def check_characters(value: Any) -> None:
    """Refuse lone surrogates, which are half a character: JSON can express them, but UTF-8 can't.

    Raises:
        ValueError: There is one, anywhere in the value.
    """
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("the request contains a lone surrogate (half a character); send whole characters") from None
    except (TypeError, ValueError, RecursionError):
        pass  # not JSON, a number with too many digits, or nested too deeply: reported later


def check_extent(value: Any) -> None:
    """Refuse a request of very many values, before each of them is checked.

    Raises:
        ValueError: There are more than `MAX_VALUES`, at all levels together.
    """
    waiting, seen = [value], 0
    while waiting:
        each = waiting.pop()
        if isinstance(each, list | tuple | Mapping):
            seen += len(each)
            if seen > MAX_VALUES:
                raise ValueError(f"the request has more than {MAX_VALUES:,} values; ask for less at a time")
            waiting.extend(each.values() if isinstance(each, Mapping) else each)


@dataclass(frozen=True, eq=False)
class Allowed:
    """Annotate a type with its constraints, and their description for error messages.

    Attributes:
        words: Completes "it must be ...".
        limits: Arguments of `pydantic.Field`.
    """

    words: str
    limits: Mapping[str, Any] = field(default_factory=dict)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Wrap the type's own validation."""
        schema = handler.generate_schema(Annotated[source, Field(**self.limits)]) if self.limits else handler(source)
        return core_schema.no_info_wrap_validator_function(self._check, schema)

    def _check(self, value: Any, handler: Any) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            if any(each["type"] == _WORDS for each in error.errors(include_url=False, include_input=False)):
                raise  # from a nested value, already readable
            refuse(f"is {shown(value)}; it must be {self.words}")


def refuse(words: str) -> NoReturn:
    """Refuse a value; ``words`` follow its name in the message."""
    raise PydanticCustomError(_WORDS, "{words}", {"words": words})


def number(lowest: float, highest: float, words: str = "") -> Allowed:
    """Allow finite numbers in a range."""
    limits = {"strict": True, "ge": lowest, "le": highest, "allow_inf_nan": False}
    return Allowed(words or f"a number from {lowest:g} to {highest:g}", limits)


def whole(lowest: int, highest: int, words: str = "") -> Allowed:
    """Allow whole numbers in a range."""
    limits = {"strict": True, "ge": lowest, "le": highest}
    return Allowed(words or f"a whole number from {lowest} to {highest}", limits)


def text(longest: int, like: str = "text") -> Allowed:
    """Allow text of limited length."""
    return Allowed(f"{like} of at most {longest:,} characters", {"strict": True, "max_length": longest})


_LABEL_WORDS = "true, false, a number from 0 to 1, or the name of a class"
_ALPHA_WORDS = f'a number from {-MAX_ALPHA:g} to {MAX_ALPHA:g} or an object like {{"layers.2": 0.5}}'
_FEW = {"max_length": MAX_ENTRIES}

Flag = Annotated[bool, Allowed("true or false", {"strict": True})]
Name = Annotated[str, text(MAX_NAME)]
Truncation = Annotated[float, number(MIN_TRUNCATION, MAX_TRUNCATION)]
SeedNumber = Annotated[int, whole(0, MAX_SEED)]
LabelValue = Annotated[
    Annotated[bool, Strict()]
    | Annotated[float, Field(strict=True, ge=-MAX_SEED, le=MAX_SEED, allow_inf_nan=False)]
    | Annotated[str, Field(strict=True, max_length=MAX_NAME)],
    Allowed(_LABEL_WORDS),
]
Labels = Annotated[dict[Name, LabelValue], Allowed('a JSON object of names and values, like {"beard": true}', _FEW)]
Strength = Annotated[float, number(-MAX_STRENGTH, MAX_STRENGTH)]
Strengths = Annotated[dict[Name, Strength], Allowed('a JSON object of directions, like {"beard": 1.5}', _FEW)]
AlphaNumber = Annotated[float, number(-MAX_ALPHA, MAX_ALPHA)]
Alpha = Annotated[
    Annotated[float, number(-MAX_ALPHA, MAX_ALPHA, _ALPHA_WORDS), Tag(_ONE)]
    | Annotated[dict[Name, AlphaNumber], Allowed(_ALPHA_WORDS, _FEW), Tag(_OBJECT)],
    Discriminator(lambda value: _OBJECT if isinstance(value, dict) else _ONE),
]


def read_seeds(seeds: str) -> list[int]:
    """Parse seeds like `parse_seeds`, with truncated error messages.

    Raises:
        ValueError: See `parse_seeds`.
    """
    try:
        return parse_seeds(seeds)
    except ValueError as error:
        if len(seeds) <= MAX_SHOWN:
            raise
        raise ValueError(f"seeds are {shown(seeds)}; write them like '0-15, 42', each at most {MAX_SEED}") from error


class Request(BaseModel):
    """Base of requests, which declare their fields; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def read(cls, given: Mapping[str, Any], context: Any = None) -> Self:
        """Validate a request.

        Args:
            given: Values by name.
            context: For types that depend on the sender.

        Raises:
            ValueError: Something is missing, unknown or not allowed, with a readable message.
        """
        if not isinstance(given, Mapping):
            raise ValueError(f"the request is {shown(given)}; it must be a JSON object")
        # Before pydantic, which collects an error for each name. A mistyped name is unknown, and the right one missing.
        unknown = next((name for name in given if name not in cls.model_fields), None)
        if unknown is not None:
            closest = suggest(str(unknown)[:MAX_NAME], [*cls.model_fields])
            raise ValueError(f"unknown parameter {shown(unknown)}; {closest}")
        try:
            return cls.model_validate(dict(given), context=context)
        except ValidationError as error:
            raise ValueError(_in_words(error)) from None


def _in_words(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = [part for part in first["loc"] if part not in MARKS]
    name = str(place[0]) if place else "the request"
    if first["type"] == "missing":
        return f"{name} is missing"
    for part in place[1:]:
        if part == "[key]":
            continue
        name = f"{name}[{part}]" if isinstance(part, int) else f"{name} of {shown(part)}"
    if first["type"] == _WORDS:
        return f"{name} {first['msg']}"
    return f"{name} is {shown(first['input'])}; this value is not allowed"
