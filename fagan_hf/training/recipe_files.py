"""Recipe files: bundled recipes by name, others by path."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from fagan_hf.training.recipe import FIELDS
from fagan_hf.utils.suggest import suggest

SUFFIXES = (".yaml", ".yml")
# In a wheel they are inside the package, in a clone at the top level, where they are edited.
_PLACES = (Path(__file__).with_name("recipes"), Path(__file__).parents[2] / "training/recipes")


def our_recipes() -> dict[str, Path]:
    """Return the recipes that come with the package, by name."""
    folder = next(place for place in _PLACES if place.is_dir())
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(name: str | Path) -> Path:
    """Find a recipe.

    Args:
        name: Name of a bundled recipe, such as ``"avatars-32"``, or the path of a YAML file.

    Raises:
        FileNotFoundError: There is no such recipe; lists bundled ones and files in that folder, the closest name first.
    """
    path, ours = Path(name).expanduser(), our_recipes()
    if path.is_file():
        return path
    if str(name) in ours:
        return ours[str(name)]
    is_path = path.suffix in SUFFIXES or len(path.parts) > 1
    beside = path.parent.glob("*") if path.parent.is_dir() else ()
    files = [str(each) for each in beside if each.suffix in SUFFIXES and not each.name.startswith(".")]
    options = [*files, *ours] if is_path or files else ours
    raise FileNotFoundError(f"there is no recipe {str(name)!r}; {suggest(str(name), options)}")


def read_recipe_file(path: Path) -> dict[str, Any]:
    """Read the fields of a recipe file.

    Raises:
        ValueError: It is not a YAML mapping, or has an unknown key; suggests the closest name.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"recipe {str(path)!r} is not a YAML file: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(
            f"recipe {str(path)!r} contains {type(data).__name__}; it must be a mapping of fields to values"
        )
    check_names(f"recipe {str(path)!r} has the unknown field", data)
    return data


def check_names(complaint: str, names: Iterable[Any]) -> None:
    """Refuse names that are not fields of a recipe.

    Raises:
        ValueError: The message starts with ``complaint`` and suggests the closest field.
    """
    for name in names:
        if name not in FIELDS:
            raise ValueError(f"{complaint} {name!r}; {suggest(str(name), FIELDS)}")
