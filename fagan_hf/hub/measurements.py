"""Metrics of a model: ``metrics.json``, each number with everything needed to interpret it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from fagan_hf.hub.repository import METRICS, write_json
from fagan_hf.utils.json_text import parse_json
from fagan_hf.utils.suggest import suggest


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One measured value of a metric.

    Attributes:
        type: Name of the metric: distance, features and number of images, such as ``fd_effnetlite0_2048``. Only values
            of the same type are comparable.
        name: The metric in words.
        value: The measured value.
        features: The features that were compared.
        num_images: Number of generated images.
        reference: What they were compared with, and how many.
        generator: SHA-256 of the weights of the evaluated generator.
        dataset: Id of the dataset.
        split: Split of the dataset.
        lower_is_better: ``None`` if neither direction is better.
        floor: The value for real images against other real ones, if measured.
        error: Standard deviation over subsets of the images, if known.
        command: Command that reproduces it.
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
        """Metric and data: a model has one value for each."""
        return self.type, self.dataset, self.split

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """Parse an entry of `metrics.json`.

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
    """Read the metrics of the model in a folder.

    Raises:
        ValueError: ``metrics.json`` is invalid; says where.
    """
    path = folder / METRICS
    return parse_measurements(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else []


def parse_measurements(text: str, name: str = METRICS) -> list[Measurement]:
    """Parse the text of a ``metrics.json``.

    Args:
        text: Contents of the file.
        name: Name of the file in error messages.

    Raises:
        ValueError: It is not a list of measurements; says where.
    """
    try:
        data = parse_json(text)
        if not isinstance(data, list):
            raise ValueError(f"it contains {type(data).__name__}; it must be a list of measurements")
        return [Measurement.from_dict(each) for each in data]
    except ValueError as error:  # a JSONDecodeError is one too
        raise ValueError(f"{name}: {error}") from error


def add_measurement(folder: Path, measurement: Measurement) -> None:
    """Save a value; values of other weights, and an older one of the same type and data, are dropped."""
    kept = [
        each
        for each in read_measurements(folder)
        if each.generator == measurement.generator and each.subject != measurement.subject
    ]
    write_json(folder / METRICS, [asdict(each) for each in (*kept, measurement)])
