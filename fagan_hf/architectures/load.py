"""Load architectures by name, from a file, or from another model."""

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

from fagan_hf.architectures.configs import Architecture, DiscriminatorConfig, GeneratorConfig
from fagan_hf.architectures.own_code import run_file
from fagan_hf.architectures.presets import PRESETS
from fagan_hf.hub.repository import ARCHITECTURE_SUFFIXES, CONFIG, DISCRIMINATOR, GENERATOR, read_json
from fagan_hf.hub.snapshot import resolve
from fagan_hf.utils.json_text import parse_json
from fagan_hf.utils.suggest import suggest

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(?<!\.json)(?<!\.py)(@[\w./-]+)?")


def load_architecture(name: str) -> Architecture:
    """Find an architecture.

    Args:
        name: Name of a preset; or the path of a file: JSON with the keys ``generator`` and ``discriminator``, each as
            in a ``config.json``, or Python that sets ``GENERATOR`` and ``DISCRIMINATOR`` to the two configs and may
            register layers. A Python file is executed, so it must be trusted. Or a model with this architecture: a run
            folder, or ``user/name`` or ``user/name@revision`` on the Hub.

    Raises:
        ValueError: There is no such preset or file, or the file does not contain an architecture; says where and why.
        FileNotFoundError: There is no such model, or it has no discriminator.
    """
    if name in PRESETS:
        return PRESETS[name]
    path = Path(name)
    if path.is_dir() or _HUB_ID.fullmatch(name):
        return _of_model(name)
    if path.suffix not in ARCHITECTURE_SUFFIXES or not path.is_file():
        raise ValueError(
            f"model is {name!r}, which is neither a preset nor a file that ends in "
            f"{' or '.join(ARCHITECTURE_SUFFIXES)}; "
            f"{suggest(name, [*PRESETS, *_files_beside(path)])}"
        )
    found = _read_json(path) if path.suffix == ".json" else _run_python(path)
    try:
        return _as_config(found, "generator", GeneratorConfig), _as_config(found, "discriminator", DiscriminatorConfig)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


@cache
def _of_model(name: str) -> Architecture:
    """Read the configs of a model."""
    wanted = [f"{network}/{CONFIG}" for network in (GENERATOR, DISCRIMINATOR)]
    folder = resolve(name, allow_patterns=wanted).folder
    missing = [each for each in wanted if not (folder / each).is_file()]
    if missing:
        raise FileNotFoundError(f"{name!r} has no {' and no '.join(missing)}; use a preset or a file instead")
    configs = zip((GeneratorConfig, DiscriminatorConfig), wanted, strict=True)
    generator, discriminator = (config_class.from_dict(read_json(folder / each)) for config_class, each in configs)
    return cast(Architecture, (generator, discriminator))


def _files_beside(path: Path) -> list[str]:
    """List the architecture files in the folder of a path, if it looks like a path."""
    is_path = path.suffix or len(path.parts) > 1
    found = path.parent.glob("*") if is_path and path.parent.is_dir() else ()
    return [str(each) for each in found if each.suffix in ARCHITECTURE_SUFFIXES]


def save_architecture(path: Path, architecture: Architecture) -> None:
    """Write a file that `load_architecture` reads."""
    generator, discriminator = architecture
    data = {"generator": generator.to_dict(), "discriminator": discriminator.to_dict()}
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        data = parse_json(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:  # a JSONDecodeError and a UnicodeDecodeError are ValueErrors too
        raise ValueError(f"{path} is not a valid JSON file: {error}") from error
    if not isinstance(data, dict) or data.keys() != {"generator", "discriminator"}:
        keys = list(data) if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"{path} contains {keys}; it must be a mapping with the keys 'generator' and 'discriminator'")
    return data


def _run_python(path: Path) -> Mapping[str, Any]:
    module = run_file(path)
    missing = [each for each in ("GENERATOR", "DISCRIMINATOR") if not hasattr(module, each)]
    if missing:
        raise ValueError(f"{path} does not set {' and '.join(missing)}; it must set GENERATOR and DISCRIMINATOR")
    return {"generator": module.GENERATOR, "discriminator": module.DISCRIMINATOR}


def _as_config(found: Mapping[str, Any], key: str, config_class: type) -> Any:
    value = found[key]
    if isinstance(value, config_class):
        return value
    try:
        return config_class.from_dict(value)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
