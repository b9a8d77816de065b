"""What requests may hold: the types that the handler for Inference Endpoints and the Space check them with.

A request is a `Request`: pydantic checks it before anything else happens. Its errors are put in words for people: what
arrived, cut short, and what is allowed. Numbers are finite, true is no number, and text is no number either.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NoReturn, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, GetCoreSchemaHandler, Strict, Tag, ValidationError
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from fagan_hf.seeds import MAX_SEED, parse_seeds
from fagan_hf.suggest import suggest

MAX_SHOWN = 60  # characters of what arrived that an error repeats
MAX_TEXT = 2_000  # characters of seeds
MAX_NAME = 200  # characters of the name or the value of a label, or of the name of a layer
MAX_ENTRIES = 100  # labels, layers or directions in an object
MIN_TRUNCATION, MAX_TRUNCATION = 0.01, 2.0
MAX_ALPHA = 10.0  # either sign; far beyond trained gates, and still without overflows
MAX_STRENGTH = 100.0  # either sign; far beyond where pictures change

_WORDS = "words"  # the type of errors whose message is meant for people
MARKS = _ONE, _OBJECT = "<one>", "<several>"  # of a union's parts; errors leave them out


def shown(value: Any) -> str:
    """Write what arrived as JSON, cut to `MAX_SHOWN` characters; of other things name only the type."""
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
    except (ValueError, RecursionError):  # a number of more digits than Python writes; too deep
        return "too large to be shown"
    text = "".join(pieces)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


def check_characters(value: Any) -> None:
    """Refuse halves of a character, which JSON can write and no text can hold.

    Raises:
        ValueError: There is one, anywhere in the value.
    """
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("the request has half a character (a lone surrogate) in it; send whole ones") from None
    except (TypeError, ValueError, RecursionError):
        pass  # no JSON, a number of too many digits, too deep: whoever reads it knows better what is wrong


@dataclass(frozen=True, eq=False)
class Allowed:
    """Annotate a type with what is allowed, in words that an error gives back.

    Attributes:
        words: They follow "it must be".
        limits: As `pydantic.Field` takes them.
    """

    words: str
    limits: Mapping[str, Any] = field(default_factory=dict)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Wrap the type's own check."""
        schema = handler.generate_schema(Annotated[source, Field(**self.limits)]) if self.limits else handler(source)
        return core_schema.no_info_wrap_validator_function(self._check, schema)

    def _check(self, value: Any, handler: Any) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            if any(each["type"] == _WORDS for each in error.errors(include_url=False, include_input=False)):
                raise  # a part of it, already in words
            refuse(f"is {shown(value)}; it must be {self.words}")


def refuse(words: str) -> NoReturn:
    """Refuse a value; ``words`` follow its name."""
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
    """Allow text that is not too long."""
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
    """Read seeds as `parse_seeds` does; its errors, which repeat them, are cut.

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
    """What may come, field by field; anything else is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def read(cls, given: Mapping[str, Any], context: Any = None) -> Self:
        """Check what came.

        Args:
            given: The values by their names.
            context: For types that ask who sent it.

        Raises:
            ValueError: Something is missing, unknown or not allowed; in words.
        """
        if not isinstance(given, Mapping):
            raise ValueError(f"the request is {shown(given)}; it must be a JSON object")
        try:
            return cls.model_validate(dict(given), context=context)
        except ValidationError as error:
            raise ValueError(_in_words(error, [*cls.model_fields])) from None


def _in_words(error: ValidationError, fields: list[str]) -> str:
    errors = error.errors(include_url=False)
    # A name that is mistyped is unknown, and the right one missing.
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    place = [part for part in first["loc"] if part not in MARKS]
    name = str(place[0]) if place else "the request"
    if first["type"] == "extra_forbidden":
        return f"unknown parameter {shown(name)}; {suggest(name[:MAX_NAME], fields)}"
    if first["type"] == "missing":
        return f"{name} is missing"
    for part in place[1:]:
        if part == "[key]":
            continue
        name = f"{name}[{part}]" if isinstance(part, int) else f"{name} of {shown(part)}"
    if first["type"] == _WORDS:
        return f"{name} {first['msg']}"
    return f"{name} is {shown(first['input'])}; that is not allowed there"
