"""Suggestions for error messages: the available options, and the closest one."""

from collections.abc import Iterable, Mapping
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


def refuse_keywords(function: str, given: Iterable[str], options: Iterable[str], reasons: Mapping[str, str]) -> None:
    """Refuse keyword arguments that a function does not take, with a reason or the closest name.

    Args:
        function: Its name, for the message.
        given: Names of the unknown arguments; none is fine.
        options: Names of the arguments that it takes.
        reasons: Why it does not take arguments that users of similar functions expect, and what to do instead.

    Raises:
        TypeError: An unknown argument was given.
    """
    for name in given:
        why = f": {reasons[name]}" if name in reasons else f"; {suggest(name, options)}"
        raise TypeError(f"{function} takes no argument {name!r}{why}")
