"""The recipe of a command line: a YAML file, and a flag for each field."""

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jsonargparse
import yaml

from fagan_hf.hub.repository import ARCHITECTURE_SUFFIXES
from fagan_hf.training.recipe import CHOICES, FIELDS, LISTS, Recipe
from fagan_hf.training.run.origin import base_recipe
from fagan_hf.utils.redaction import redact
from fagan_hf.utils.suggest import suggest


def check_recipe_file(path: Path) -> None:
    """Refuse a file that is no recipe, or has keys that no recipe has.

    Raises:
        FileNotFoundError: There is no such file; lists the recipes beside it.
        ValueError: It is no YAML mapping, or has an unknown key; names the nearest.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        there = ", ".join(sorted(map(str, path.parent.glob("*.yaml")))) or "no recipes there"
        raise FileNotFoundError(f"recipe {str(path)!r} does not exist; {there}") from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"recipe {str(path)!r} is no YAML file: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"recipe {str(path)!r} holds {type(data).__name__}; it must be a mapping of fields to values")
    _check_names(f"recipe {str(path)!r} has the unknown field", data)


def _check_names(complaint: str, names: Any) -> None:
    for name in names:
        if name not in FIELDS:
            raise ValueError(f"{complaint} {name!r}; {suggest(str(name), FIELDS)}")


def parse_recipe(arguments: Sequence[str] | None = None) -> Recipe:
    """Read the recipe of a command line: ``--config FILE`` and a flag for each field that shall differ from it.

    Args:
        arguments: Without the program's name; by default the process's own.

    Raises:
        SystemExit: After ``--help``, or with status 2 and a message about what is wrong.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(
        prog="training/train.py",
        description="Train a generator and a discriminator. The same command goes on where a run was stopped.",
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="Recipe to start from; see training/recipes/.")
    parser.add_class_arguments(Recipe, as_group=False)
    try:
        with TemporaryDirectory() as folder:
            return _parse(parser, arguments, Path(folder))
    except (ValueError, FileNotFoundError, jsonargparse.ArgumentError) as error:
        print(redact(f"train.py: error: {error}\n(--help explains every field)"), file=sys.stderr)
        raise SystemExit(2) from error


def _parse(parser: Any, arguments: list[str], scratch: Path) -> Recipe:
    arguments = _with_equals(arguments)
    _check_names("unknown flag", [name for name, _ in _flags(arguments) if name not in ("config", "help", "")])
    arguments = _with_base(arguments, scratch)
    # The file first, so that a flag beats it wherever it stands.
    arguments = sorted(map(_with_brackets, arguments), key=lambda argument: not argument.startswith("--config="))
    path = None
    if arguments and arguments[0].startswith("--config="):
        path = Path(arguments[0].removeprefix("--config="))
        check_recipe_file(path)
    _check_choices(arguments, path)
    values = parser.parse_args(arguments).as_dict()
    values.pop("config", None)
    values |= {name: tuple(values[name]) for name in ("betas", *LISTS)}
    values["model"] = _find_beside(path, values["model"])
    return Recipe(**values)


def _with_base(arguments: list[str], scratch: Path) -> list[str]:
    """Let a run that starts from a model, and is given no recipe, take over the model's."""
    flags = dict(_flags(arguments))
    origins = [(name, flags[name]) for name in ("resume_from", "finetune_from") if flags.get(name)]
    if "config" in flags or "help" in flags or len(origins) != 1:
        return arguments
    [(kind, origin)] = origins
    fields = base_recipe(origin, is_resumed=kind == "resume_from")
    if "name" not in fields and "name" not in flags:
        raise ValueError(f"--{kind} {origin} makes a new run, which needs a name of its own: give --name")
    path = scratch / f"recipe of {Path(origin).name}.yaml"
    path.write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")
    return [*arguments, f"--config={path}"]


def _with_equals(arguments: list[str]) -> list[str]:
    """Write every flag and its value as one, ``--name=value``."""
    result: list[str] = []
    for argument in arguments:
        if result and _awaits_value(result[-1]) and not argument.startswith("--"):
            result[-1] += f"={argument}"
        else:
            result.append(argument)
    if "--config" in result:
        raise ValueError("--config needs the path of a recipe")
    return result


def _awaits_value(argument: str) -> bool:
    return argument.startswith("--") and "=" not in argument


def _flags(arguments: list[str]) -> list[tuple[str, str]]:
    """Split flags, written by `_with_equals`, into names and values."""
    parts = (argument[2:].partition("=") for argument in arguments if argument.startswith("--"))
    return [(name, value) for name, _, value in parts]


def _with_brackets(argument: str) -> str:
    """Let lists of names be given as ``--augment=colour,cutout``, without the brackets that YAML wants."""
    flag, _, value = argument.partition("=")
    is_bare = flag.removeprefix("--") in LISTS and not value.startswith("[")
    return f"{flag}=[{value}]" if is_bare else argument


def _check_choices(arguments: list[str], path: Path | None) -> None:
    """Name the nearest of what is allowed, where a field has few values."""
    given = yaml.safe_load(path.read_text(encoding="utf-8")) if path is not None else {}
    given |= dict(_flags(arguments))
    for name, choices in CHOICES.items():
        if name in given and given[name] not in choices:
            raise ValueError(f"{name} is {given[name]!r}; {suggest(str(given[name]), choices)}")


def _find_beside(recipe: Path | None, model: str) -> str:
    """Look for an architecture's file beside the recipe that names it, unless it is found from here."""
    if recipe is None or Path(model).suffix not in ARCHITECTURE_SUFFIXES or Path(model).exists():
        return model
    beside = recipe.parent / model
    return str(beside) if beside.exists() else model
