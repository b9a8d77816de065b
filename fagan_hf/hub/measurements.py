"""What was measured of a model: ``metrics.json``, a number each with all that it takes to read it."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from fagan_hf.hub.repository import METRICS, write_json
from fagan_hf.utils.suggest import suggest


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A number, and what it is.

    Attributes:
        type: Which metric: its name says distance, features and number of images, such as ``fd_effnetlite0_2048``. Only
            numbers of the same type compare.
        name: The same in words.
        value: The number.
        features: What the images were turned into before they were compared.
        num_images: So many generated images.
        reference: What they were compared with, and how many of those.
        generator: SHA-256 of the generator's weights that it was measured of.
        dataset: Id of the data set.
        split: Of the data set.
        lower_is_better: Is it a distance? ``None``: neither more nor less of it is better.
        floor: The same of real images against other real ones, where it was measured.
        error: Standard deviation over parts of the images, where it is known.
        command: What measures it again.
    """

    type: str
    name: str
    value: float
    features: str
    num_images: int
    reference: str
    generator: str
    dataset: str
    split: str | None = None
    lower_is_better: bool | None = True
    floor: float | None = None
    error: float | None = None
    command: str | None = None

    def __post_init__(self):
        for name, number in ((self.type, self.value), ("its floor", self.floor), ("its error", self.error)):
            if number is not None and not math.isfinite(number):
                raise ValueError(f"{name} is {number}; it must be a finite number")

    @property
    def subject(self) -> tuple[str, str, str | None]:
        """Which metric on which data: a model has one number of a kind."""
        return self.type, self.dataset, self.split

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """Read what `metrics.json` has an entry of.

        Raises:
            ValueError: A field is unknown or missing.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"a measurement is {data!r}; it must be a mapping")
        names = [field.name for field in fields(cls)]
        for name in data:
            if name not in names:
                raise ValueError(f"a measurement has the unknown field {name!r}; {suggest(str(name), names)}")
        try:
            return cls(**data)
        except TypeError as error:
            raise ValueError(f"measurement {data.get('type')!r}: {error}") from error


def read_measurements(folder: Path) -> list[Measurement]:
    """Read what was measured of a folder's model.

    Raises:
        ValueError: ``metrics.json`` is broken; says where.
    """
    path = folder / METRICS
    return parse_measurements(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else []


def parse_measurements(text: str, name: str = METRICS) -> list[Measurement]:
    """Read the text of a ``metrics.json``.

    Args:
        text: The file's.
        name: What error messages call it.

    Raises:
        ValueError: It is no list of measurements; says where.
    """
    try:
        data = json.loads(text)
        if not isinstance(data, list):
            raise ValueError(f"it holds {type(data).__name__}; it must be a list of measurements")
        return [Measurement.from_dict(each) for each in data]
    except ValueError as error:  # a JSONDecodeError is one too
        raise ValueError(f"{name}: {error}") from error


def add_measurement(folder: Path, measurement: Measurement) -> None:
    """Write a number down; those of other weights, and an older one of the same type and data, are dropped."""
    kept = [
        each
        for each in read_measurements(folder)
        if each.generator == measurement.generator and each.subject != measurement.subject
    ]
    write_json(folder / METRICS, [asdict(each) for each in (*kept, measurement)])
