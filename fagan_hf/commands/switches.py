"""Boolean flags: ``--upscale``, ``--no-upscale``, ``--upscale true``."""

import argparse
from collections.abc import Sequence
from typing import Any

_WORDS = {"true": True, "false": False}


class Switch(argparse.Action):
    """Accepts ``--name=true``, ``--name=false``, ``--no-name=true``; `spelled_out` converts the other forms."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any):
        negated = [f"--no-{each.removeprefix('--')}" for each in option_strings]
        super().__init__([*option_strings, *negated], dest, nargs=1, metavar="true|false", **options)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Store the value."""
        [word] = values
        if word.lower() not in _WORDS:
            parser.error(f"{option_string} is {word!r}; it must be true or false")
        is_negated = option_string is not None and option_string.startswith("--no-")
        setattr(namespace, self.dest, _WORDS[word.lower()] != is_negated)


def add_switch(parser: Any, name: str, help: str, *, default: bool | None = False) -> None:  # noqa: A002
    """Add a boolean flag."""
    parser.add_argument(name, action=Switch, default=default, help=help)


def spelled_out(arguments: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """Attach an explicit value to every switch, so that the next argument is not mistaken for it."""
    names = {option for action in parser._actions if isinstance(action, Switch) for option in action.option_strings}
    result: list[str] = []
    for argument in arguments:
        if result and result[-1] in names:
            is_value = argument.lower() in _WORDS
            result[-1] += f"={argument if is_value else 'true'}"
            if is_value:
                continue
        result.append(argument)
    if result and result[-1] in names:
        result[-1] += "=true"
    return result
