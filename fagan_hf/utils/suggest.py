"""The end of an error message: what there is, and which of it was probably meant."""

from collections.abc import Iterable
from difflib import get_close_matches


def suggest(name: str, options: Iterable[str]) -> str:
    """List what is allowed, led by the nearest match to a mistyped name.

    Args:
        name: What arrived.
        options: What would have been right.

    Returns:
        For example ``"did you mean 'fagan-32'? There are: dcgan-64, fagan-32"``.
    """
    options = sorted(options)
    nearest = get_close_matches(name, options, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return f"{hint}There are: {', '.join(options) or 'none'}"
