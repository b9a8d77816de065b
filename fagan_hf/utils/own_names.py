"""Names under which users register functions of their own."""

import re
from collections.abc import Mapping
from typing import Any


def check_name(what: str, name: str, function: Any, registry: Mapping[str, Any]) -> None:
    """Check the name of a function that is to be registered.

    Args:
        what: Of what it is the name, for errors.
        name: A word in lower case; it is part of flags and recipes.
        function: What is to be registered.
        registry: What there is. The same definition may be registered again: the same name in the same module.

    Raises:
        ValueError: The name is not a word, or is that of another definition.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"the name of a {what} is {name!r}; it must be a word in lower case, like 'my_{what}'")
    if name in registry and _definition(registry[name]) != _definition(function):
        raise ValueError(f"{what} {name!r} is taken by {'.'.join(_definition(registry[name]))}; choose another name")


def _definition(function: Any) -> tuple[str, str]:
    """Return module and name of a function, or of the class of a callable object."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return named.__module__, named.__qualname__
