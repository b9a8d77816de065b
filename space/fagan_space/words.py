"""Names of a data set in words: "Skin: brown" for ``skin_tone=brown``, as on the live page."""

import re
from collections.abc import Sequence

from fagan_hf.latent_space.directions import Directions

_MAX_DRAGGED = 3


def column_words(name: str) -> str:
    """Return a label in words: ``hair_color=red`` is "Hair color"."""
    words = _plain(name.partition("=")[0].removesuffix("_tone"))
    return words[:1].upper() + words[1:]


def value_words(name: str) -> str:
    """Return a value in words: ``turtleNeck`` is "turtle neck"."""
    return _plain(name)


def name_words(name: str) -> str:
    """Return both: "Skin: brown", or "Beard"."""
    _, _, value = name.partition("=")
    return f"{column_words(name)}: {value_words(value)}" if value else column_words(name)


def dragged_words(directions: Directions, names: Sequence[str]) -> str:
    """Say, for each of some directions, which others it drags along; empty if none does."""
    lines = []
    for name in names:
        found = [*directions.dragged(name).items()][:_MAX_DRAGGED]
        others = ", ".join(f"{'less ' if cosine < 0 else ''}“{name_words(other)}”" for other, cosine in found)
        if others:
            lines.append(f"“{name_words(name)}” drags along: {others}")
    return "\n".join(f"- {line}" for line in lines)


def _plain(text: str) -> str:
    return re.sub(r"([a-z])([A-Z])", lambda found: f"{found[1]} {found[2].lower()}", text.replace("_", " "))
