"""Build a recipe from a file and overrides: command-line flags, or keyword arguments in Python."""

import dataclasses
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonargparse

from fagan_hf.architectures.own_code import import_code
from fagan_hf.hub.repository import ARCHITECTURE_SUFFIXES
from fagan_hf.training.choices import choose_recipe, find_channels
from fagan_hf.training.recipe import CHOICES, FIELDS, LISTS, Recipe
from fagan_hf.training.recipe_files import check_names, find_recipe, our_recipes, read_recipe_file
from fagan_hf.training.run.origin import base_recipe
from fagan_hf.utils.redaction import redact
from fagan_hf.utils.suggest import suggest

_SWITCHES = {field.name for field in dataclasses.fields(Recipe) if field.type is bool}
_ORIGINS = ("resume_from", "finetune_from")
_MINUTES = "minutes"  # of everything that a run does; with a recipe, of its training
_AUTO = "auto"  # as the value of channels: found from the images
_REPEATABLE = "imports"
_FILE = ("recipe", "config")  # flags that name a recipe; the second is the usual name in other programs


def parse_recipe(arguments: Sequence[str] | None = None, *, program: str = "train.py") -> Recipe:
    """Parse the recipe from a command line: ``--recipe NAME``, and flags that override its fields.

    Flags may be written with ``-`` or ``_``; boolean ones as ``--streaming``, ``--no-streaming`` or with a value; lists
    as ``--augment color,cutout``. ``--import`` may be repeated.

    Args:
        arguments: Without the program's name; by default the process's own.
        program: Name of the program in help and errors.

    Raises:
        SystemExit: After ``--help``, or with status 2 and a message about what is wrong.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & {*arguments}:
        _parser(program).parse_args(["--help"])
    try:
        flags = _read_flags(arguments)
        files = [flags.pop(name) for name in _FILE if name in flags]
        if len(files) > 1:
            raise ValueError("--recipe and --config are the same flag; give only one of them")
        return _build(files[0] if files else None, flags)
    except (ValueError, FileNotFoundError, PermissionError) as error:
        print(redact(f"{program}: error: {error}\n(--help explains every field)"), file=sys.stderr)
        raise SystemExit(2) from error


def build_recipe(recipe: str | Path | None = None, **fields: Any) -> Recipe:
    """Build a recipe from a bundled recipe or a recipe file, and overrides.

    Args:
        recipe: A name or a path, see `fagan_hf.training.recipe_files.find_recipe`; by default the recipe of the model
            in `resume_from` or `finetune_from`, if any.
        **fields: Fields of `Recipe` to set or override.

    Raises:
        FileNotFoundError: There is no such recipe.
        TypeError: A field is unknown; suggests the closest name.
        ValueError: A value is not allowed.
    """
    try:
        check_names("unknown field", [name for name in fields if name != _MINUTES])
    except ValueError as error:
        raise TypeError(str(error)) from error
    return _build(recipe, fields)


def _build(recipe: str | Path | None, changes: Mapping[str, Any]) -> Recipe:
    """Build a recipe from a file and changes; changes given as text are parsed as YAML."""
    changes = {**changes}
    for name in _names(changes.get("imports", ())):  # before configs of other models are read
        import_code(name)
    minutes = changes.pop(_MINUTES, None)
    is_found = changes.get("channels") == _AUTO
    if is_found:
        del changes["channels"]
    origin = changes.get("finetune_from")
    is_whole = "name" in changes and ("model" in changes or origin)  # nothing is left that must be chosen
    if recipe is None and "dataset" in changes and not is_whole and not changes.get("resume_from"):
        base = base_recipe(origin, is_resumed=False) if origin else None
        return choose_recipe(lambda fields: _parse(None, fields, changes), base, set(changes), _as_minutes(minutes))
    if minutes is not None:
        changes["max_minutes"] = minutes
    path = None if recipe is None else find_recipe(recipe)
    built = _parse(path, _base(changes) if path is None else read_recipe_file(path), changes)
    return dataclasses.replace(built, channels=find_channels(built)) if is_found else built


def _names(value: Any) -> list[str]:
    """Return the names in a list, or in the text of one."""
    return [*filter(None, map(str.strip, value.strip("[]").split(",")))] if isinstance(value, str) else [*value]


def _parse(path: Path | None, fields: Mapping[str, Any], changes: Mapping[str, Any]) -> Recipe:
    """Build a recipe from the fields of a file, or of nothing, and changes."""
    for name, choices in CHOICES.items():
        value = changes.get(name, fields.get(name, choices[0]))
        if str(value) not in map(str, choices):
            raise ValueError(f"{name} is {value!r}; {suggest(str(value), [str(each) for each in choices])}")
    texts = [f"--{name}={value}" for name, value in changes.items() if isinstance(value, str)]
    plain = {name: _plain(value) for name, value in changes.items() if not isinstance(value, str)}
    is_constant = "augment_probability" in changes or not _names(changes.get("augment", fields.get("augment", ())))
    if is_constant and "augment_target" not in changes:  # the recipe's no longer applies
        plain["augment_target"] = None
    sources = [path or json.dumps(fields), json.dumps(plain)]
    try:
        # Later sources take precedence; all are parsed and checked according to the fields' types.
        values = _parser().parse_args([*(f"--config={each}" for each in sources), *texts]).as_dict()
    except jsonargparse.ArgumentError as error:
        raise ValueError(str(error)) from error
    values = {name: values[name] for name in FIELDS}
    values |= {name: tuple(values[name]) for name in ("betas", *LISTS)}
    values["model"] = _find_beside(path, values["model"])
    return Recipe(**values)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


def _parser(program: str = "train.py") -> Any:
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(
        prog=program,
        usage=f"{program} [PLACE] [--recipe NAME] [--minutes N] [--FIELD VALUE ...]",
        description="Train a generator and a discriminator. Run the same command again to resume. With a PLACE (a "
        "folder or archive of images, a Parquet file, or a dataset id on the Hub) and no recipe, everything that "
        "is not given is chosen from the images and this machine; --minutes is the time for everything.",
        epilog=f"Bundled recipes: {', '.join(our_recipes())}.",
        exit_on_error=False,
    )
    parser.add_argument("--config", "--recipe", action="config", help="Recipe to start from: a name, or a YAML file.")
    parser.add_class_arguments(Recipe, as_group=False)
    return parser


def _as_minutes(value: Any) -> float | None:
    """Parse the time that a run may take."""
    try:
        minutes = None if value is None else float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"minutes is {value!r}; it must be a number, such as 30") from error
    if minutes is not None and not 0 < minutes < math.inf:
        raise ValueError(f"minutes is {value}; it must be above 0")
    return minutes


def _base(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe of the model that a run without a recipe starts from; empty if there is none."""
    origins = [(name, changes[name]) for name in _ORIGINS if changes.get(name)]
    if len(origins) != 1:
        return {}
    [(kind, origin)] = origins
    fields = base_recipe(origin, is_resumed=kind == "resume_from")
    if str(changes.get("checkpoint")).isdecimal() and "name" in fields:  # a branch, which needs its own folder
        fields["name"] = f"{fields['name']}-from-{changes['checkpoint']}"
    if "name" not in fields and "name" not in changes:
        raise ValueError(f"--{kind} {origin} starts a new run, which needs a name: give --name")
    return fields


def _read_flags(arguments: Sequence[str]) -> dict[str, str]:
    """Parse flags and their values; if a flag is repeated, the last one takes precedence, but imports add up.

    A first argument that is not a flag is the dataset, or the name of a bundled recipe.
    """
    flags: dict[str, str] = {}
    waiting: str | None = None  # a flag whose value may come next
    if arguments and not arguments[0].startswith("-"):
        is_recipe = arguments[0] in our_recipes() and not Path(arguments[0]).exists()
        arguments = [f"--{'recipe' if is_recipe else 'dataset'}={arguments[0]}", *arguments[1:]]
    for argument in arguments:
        if not re.match(r"--\w", argument):
            if waiting is None:
                raise ValueError(f"{argument!r} does not belong to any flag; write --name value")
            _set(flags, waiting, argument)
            waiting = None
            continue
        _finish(flags, waiting)
        name, equals, value = argument[2:].partition("=")
        name = name.replace("-", "_")
        name = _REPEATABLE if name == "import" else name  # as in the other commands
        is_off = name not in FIELDS and name.removeprefix("no_") in _SWITCHES
        if name not in (*_FILE, _MINUTES) and not is_off:
            check_names("unknown flag", [name])
        if is_off and equals:
            raise ValueError(f"--{name} takes no value; write --{name} or --{name.removeprefix('no_')}={value}")
        waiting = None
        if is_off:
            flags[name.removeprefix("no_")] = "false"
        elif equals:
            _set(flags, name, value)
        else:
            waiting = name
            if name != _REPEATABLE:
                flags.pop(name, None)
    _finish(flags, waiting)
    return {name: _with_brackets(name, value) for name, value in flags.items()}


def _set(flags: dict[str, str], name: str, value: str) -> None:
    """Set a flag, or add to the one that may be repeated."""
    if name == _REPEATABLE:
        value = ",".join([*_names(flags.get(name, "")), *_names(value)])
    flags[name] = value


def _finish(flags: dict[str, str], waiting: str | None) -> None:
    """Set a boolean flag without a value to true."""
    if waiting is None:
        return
    if waiting not in _SWITCHES:
        raise ValueError(f"--{waiting} needs a value")
    flags[waiting] = "true"


def _with_brackets(name: str, value: str) -> str:
    """Allow lists of names as ``color,cutout``, without the brackets that YAML requires."""
    return f"[{value}]" if name in LISTS and not value.startswith("[") else value


def _find_beside(recipe: Path | None, model: str) -> str:
    """Look for an architecture file next to the recipe that names it, unless it exists at the path as written."""
    if recipe is None or Path(model).suffix not in ARCHITECTURE_SUFFIXES or Path(model).exists():
        return model
    beside = recipe.parent / model
    return str(beside) if beside.exists() else model
