"""JSON from files that somebody else wrote."""

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """Parse JSON like `json.loads`, with one kind of error.

    Raises:
        ValueError: It is not JSON, not UTF-8, contains a number with too many digits, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
