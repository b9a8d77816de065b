"""Check that a run can use its folder: not with another recipe, and not while another process is training there."""

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from fagan_hf.architectures.configs import Architecture
from fagan_hf.architectures.load import load_architecture
from fagan_hf.hub.repository import ARCHITECTURE, ARCHITECTURE_SUFFIXES, RECIPE
from fagan_hf.training.recipe import (
    DEFAULTS,
    HOW_LONG_AND_WHERE,
    MAY_CHANGE_ON_REQUEST,
    MAY_FOLLOW_ITS_OWNER,
    Recipe,
)
from fagan_hf.utils.redaction import redact

MAY_DIFFER_BY_MACHINE = ("output_dir", "cpu_threads", "dataset")  # the images themselves are compared


def hold_folder(recipe: Recipe) -> FileLock:
    """Lock a run folder until the lock is released or this process ends, however it ends.

    Raises:
        ValueError: Another process is training there.
        OSError: The folder can't be created.
    """
    folder = recipe.run_dir
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f".{folder.name}.lock"))
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"another process is training in {folder}. Wait for it, stop it, or choose another --name"
        ) from error
    except OSError as error:
        raise type(error)(
            error.errno,
            f"can't create a run folder in {folder.parent} ({os.strerror(error.errno or 0)}); "
            "choose another --output_dir",
        ) from error
    return lock


def check_folder(recipe: Recipe) -> list[str]:
    """Refuse a run folder that was created with another recipe.

    Returns:
        The changes with which the run is resumed, in words.

    Raises:
        ValueError: The recipes differ; says in which fields.
    """
    path = recipe.run_dir / RECIPE
    if not path.exists():
        return []
    try:
        changes = recipe_changes(yaml.safe_load(path.read_text(encoding="utf-8")), recipe)
    except (yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        raise ValueError(f"{path} is corrupt: {error}. Remove {recipe.run_dir} to start over.") from error
    may_change = {*MAY_FOLLOW_ITS_OWNER, *recipe.accept_changes}
    if Path(recipe.model).suffix in ARCHITECTURE_SUFFIXES:  # a file may move; the architecture is compared itself
        may_change.add("model")
    refused = [name for name in changes if name not in may_change]
    if refused:
        on_request = [name for name in refused if name in MAY_CHANGE_ON_REQUEST]
        hint = (
            f", or resume with the new values: --accept_changes {','.join(on_request)}" if on_request == refused else ""
        )
        raise ValueError(
            f"{recipe.run_dir} belongs to another recipe: {'; '.join(changes[name] for name in refused)}. "
            f"Choose another --name, or remove that folder to start over{hint}."
        )
    gone = [f"{recipe.model} is gone, {recipe.run_dir / ARCHITECTURE} is used"] if recipe.model_is_gone else []
    return [*changes.values(), *gone]


def recipe_changes(begun: Mapping[str, Any], recipe: Recipe, besides: Collection[str] = ()) -> dict[str, str]:
    """Return how a recipe differs from that of an earlier session, in words, by field.

    Args:
        begun: Fields of the earlier recipe; it may lack those that are newer.
        recipe: The recipe.
        besides: Fields that may differ, besides those for length and location.
    """
    begun, wanted = {**DEFAULTS, **begun}, yaml.safe_load(redact(recipe.to_yaml()))
    names = sorted({*begun, *wanted} - {*HOW_LONG_AND_WHERE, *besides})
    return {
        name: f"{name} was {begun.get(name)!r}, is {wanted.get(name)!r} now"
        for name in names
        if begun.get(name) != wanted.get(name)
    }


def check_same_recipe(recipe: Recipe, of_main: str) -> None:
    """Refuse processes that were started with other flags than the main process, perhaps on another machine.

    Args:
        recipe: Recipe of this process.
        of_main: Recipe of the main process, as YAML.

    Raises:
        ValueError: The recipes differ; says in which fields.
    """
    mine, main = recipe.to_plain(), yaml.safe_load(of_main)
    different = [name for name in mine if name not in MAY_DIFFER_BY_MACHINE and mine[name] != main[name]]
    if different:
        changes = "; ".join(f"{name} is {mine[name]!r} here and {main[name]!r} there" for name in different)
        raise ValueError(
            f"the recipe of this process differs from the main process's: {changes}. "
            "Start all processes with the same command"
        )


def check_architecture(recipe: Recipe, architecture: Architecture) -> None:
    """Refuse to resume with a changed architecture: `model` may be a file, and labels come from the data.

    Raises:
        ValueError: The architectures differ; says how.
    """
    path = recipe.run_dir / ARCHITECTURE
    if not path.exists():
        return
    begun = load_architecture(str(path))
    if changes := architecture_changes(begun, architecture):
        raise ValueError(
            f"{recipe.run_dir} was started with another architecture (see {path}): {'; '.join(changes[:5])}. "
            "Choose another --name, or remove that folder to start over."
        )


def architecture_changes(was: Architecture, now: Architecture) -> list[str]:
    """List the differences between two architectures."""
    return [
        f"{name}{change}"
        for name, before, after in zip(("generator", "discriminator"), was, now, strict=True)
        for change in _changes(before.to_dict(), after.to_dict())
    ]


def _changes(was: Any, now: Any) -> Iterator[str]:
    """List the differences between two configs, as deep as their structures match."""
    if isinstance(was, dict) and isinstance(now, dict) and was.keys() == now.keys():
        for key in was:
            yield from (f".{key}{change}" for change in _changes(was[key], now[key]))
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for index, pair in enumerate(zip(was, now, strict=True)):
            yield from (f"[{index}]{change}" for change in _changes(*pair))
    elif was != now:
        is_long = any(isinstance(each, dict | list) for each in (was, now))
        yield " differs" if is_long else f" was {was!r}, is {now!r} now"
