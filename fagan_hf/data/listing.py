"""What listing a dataset finds: how many images there are, and where the bytes and labels of each come from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fagan_hf.data.archives import Member, Refused
from fagan_hf.data.labels import LabelColumn


@dataclass(frozen=True)
class Drawing:
    """An image that is drawn by a program instead of read from a file."""

    seed: int
    style: str


Content = Path | bytes | Member | Drawing | Refused | None  # None: the row has no image


@dataclass(frozen=True)
class Listing:
    """The contents of a dataset.

    Args:
        count: Number of images.
        name: Returns the name of image i for error messages.
        contents: Returns the contents of images i to j (exclusive).
        columns: Readers of the label columns by name: a column costs nothing until it is read.
        identity: Changes when an image or the order may have changed; found without reading any image.
        digests: Returns uint8 [count, 16], equal for two images only if their bytes are, wherever they are stored;
            shows a progress bar if its argument is true.
        facts: For cards: dataset, split, revision, license, attribution; JSON.
        summary: What was found and what was left out, in one line; empty if there is nothing to say.
        action: Name of the preparation, for the progress bar.
    """

    count: int
    name: Callable[[int], str]
    contents: Callable[[int, int], Sequence[Content]]
    columns: dict[str, Callable[[], LabelColumn]]
    identity: str
    digests: Callable[[bool], np.ndarray]
    facts: dict[str, Any]
    summary: str = ""
    action: str = "Reading images"
