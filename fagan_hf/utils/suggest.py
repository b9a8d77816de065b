"""Suggestions for error messages: the available options, and the closest one."""

from collections.abc import Iterable
from difflib import get_close_matches


def suggest(name: str, options: Iterable[str]) -> str:
    """List the options, preceded by the closest match to a mistyped name.

    Args:
        name: The given name.
        options: The valid names.

    Returns:
        For example ``"did you mean 'fagan-32'? There are: dcgan-64, fagan-32"``.
    """
    options = sorted(options)
    nearest = get_close_matches(name, options, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return f"{hint}There are: {', '.join(options) or 'none'}"
