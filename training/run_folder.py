"""May a recipe go on in a folder, or was that begun with another one?"""

from collections.abc import Iterator
from typing import Any

import yaml

from fagan_hf.architectures import Architecture, load_architecture
from fagan_hf.redaction import redact
from fagan_hf.repository import ARCHITECTURE, RECIPE
from training.recipe import DEFAULTS, HOW_LONG_AND_WHERE, Recipe


def check_folder(recipe: Recipe) -> None:
    """Refuse a run folder that another recipe has begun.

    Raises:
        ValueError: Says which fields differ.
    """
    path = recipe.run_dir / RECIPE
    if not path.exists():
        return
    wanted = yaml.safe_load(redact(recipe.to_yaml()))
    try:
        begun = DEFAULTS | yaml.safe_load(path.read_text(encoding="utf-8"))  # fields newer than the folder
    except (yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        raise ValueError(f"{path} is broken: {error}. Remove {recipe.run_dir} to start anew.") from error
    names = [name for name in begun.keys() | wanted.keys() if name not in HOW_LONG_AND_WHERE]
    different = sorted(name for name in names if begun.get(name) != wanted.get(name))
    if different:
        changes = "; ".join(f"{name} was {begun.get(name)!r}, is {wanted.get(name)!r}" for name in different)
        raise ValueError(
            f"{recipe.run_dir} belongs to another recipe: {changes}. "
            "Give another --name, or remove that folder to start anew."
        )


def check_architecture(recipe: Recipe, architecture: Architecture) -> None:
    """Refuse to go on with networks that were changed: `model` may be a file, and labels come from the data.

    Raises:
        ValueError: Says which network differs.
    """
    path = recipe.run_dir / ARCHITECTURE
    if not path.exists():
        return
    begun = load_architecture(str(path))
    if changes := architecture_changes(begun, architecture):
        raise ValueError(
            f"{recipe.run_dir} was begun with another architecture (see {path}): {'; '.join(changes[:5])}. "
            "Give another --name, or remove that folder to start anew."
        )


def architecture_changes(was: Architecture, now: Architecture) -> list[str]:
    """Name what differs between two architectures."""
    return [
        f"{name}{change}"
        for name, before, after in zip(("generator", "discriminator"), was, now, strict=True)
        for change in _changes(before.to_dict(), after.to_dict())
    ]


def _changes(was: Any, now: Any) -> Iterator[str]:
    """Name what differs between two configs, as far down as both have the same form."""
    if isinstance(was, dict) and isinstance(now, dict) and was.keys() == now.keys():
        for key in was:
            yield from (f".{key}{change}" for change in _changes(was[key], now[key]))
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for index, pair in enumerate(zip(was, now, strict=True)):
            yield from (f"[{index}]{change}" for change in _changes(*pair))
    elif was != now:
        is_long = any(isinstance(each, dict | list) for each in (was, now))
        yield " differs" if is_long else f" was {was!r}, is {now!r}"
