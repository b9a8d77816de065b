"""May a recipe go on in a folder? Not if it was begun with another one, nor while another process trains there."""

import os
from collections.abc import Iterator
from typing import Any

import yaml
from filelock import FileLock, Timeout

from fagan_hf.architectures.configs import Architecture
from fagan_hf.architectures.load import load_architecture
from fagan_hf.hub.repository import ARCHITECTURE, RECIPE
from fagan_hf.training.recipe import DEFAULTS, HOW_LONG_AND_WHERE, Recipe
from fagan_hf.utils.redaction import redact

MAY_DIFFER_BY_MACHINE = ("output_dir", "cpu_threads", "dataset")  # the images themselves are compared


def hold_folder(recipe: Recipe) -> FileLock:
    """Keep other runs out of a run's folder until the lock is released or this process ends, however it ends.

    Raises:
        ValueError: Another process trains there.
        OSError: No folder can be made there.
    """
    folder = recipe.run_dir
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f".{folder.name}.lock"))
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"another process is training in {folder}. Wait for it, stop it, or give another --name"
        ) from error
    except OSError as error:
        raise type(error)(
            error.errno,
            f"no run can be kept in {folder.parent} ({os.strerror(error.errno or 0)}); give another --output_dir",
        ) from error
    return lock


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


def check_same_recipe(recipe: Recipe, of_main: str) -> None:
    """Refuse processes that were started with other flags than the main one, on another machine perhaps.

    Args:
        recipe: Of this process.
        of_main: The main process's, as YAML.

    Raises:
        ValueError: Says which fields differ.
    """
    mine, main = recipe.to_plain(), yaml.safe_load(of_main)
    different = [name for name in mine if name not in MAY_DIFFER_BY_MACHINE and mine[name] != main[name]]
    if different:
        changes = "; ".join(f"{name} is {mine[name]!r} here and {main[name]!r} there" for name in different)
        raise ValueError(f"this process has another recipe than the main one: {changes}. Start all by the same command")


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
