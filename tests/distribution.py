"""What the package declares, and what of it is installed here."""

import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
EXTRAS = [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
GROUPS = [line for group in PYPROJECT["dependency-groups"].values() for line in group]


def closure(requirements: Iterable[str]) -> set[str]:
    """Return the installed packages that the requirements pull in on this machine."""
    names: set[str] = set()
    seen: set[tuple[str, str]] = set()

    def visit(lines: Iterable[str], extras: Iterable[str] = ()) -> None:
        environments = [{"extra": extra} for extra in ("", *extras)]
        for requirement in map(Requirement, lines):
            if requirement.marker and not any(map(requirement.marker.evaluate, environments)):
                continue
            name = canonicalize_name(requirement.name)
            names.add(name)
            key = (name, ",".join(sorted(requirement.extras)))
            if key not in seen:
                seen.add(key)
                visit(requires(name), requirement.extras)

    visit(requirements)
    return names


def requires(name: str) -> list[str]:
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:  # the demo's, which the tests don't install
        return []


def installed() -> Iterator[str]:
    return (canonicalize_name(distribution.metadata["Name"]) for distribution in metadata.distributions())
