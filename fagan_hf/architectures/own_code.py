"""The user's own Python files and modules, which register layers."""

import hashlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

FROM_ENVIRONMENT = "FAGAN_IMPORT"
"""Variable with the files and modules to import where there is no flag for them, separated by commas."""
_PREFIX = "fagan_architecture_"


def import_from_environment() -> None:
    """Import what the variable FAGAN_IMPORT names.

    Raises:
        ValueError: Something can't be found, or raises an error.
    """
    for name in filter(None, map(str.strip, os.environ.get(FROM_ENVIRONMENT, "").split(","))):
        try:
            import_code(name)
        except ValueError as error:
            raise ValueError(f"{FROM_ENVIRONMENT}: {error}") from error


def source_of(defined: type) -> str:
    """Return what `import_code` needs to define a class elsewhere: its module, or the name of its file."""
    module = sys.modules.get(defined.__module__)
    file = getattr(module, "__file__", None)
    is_file = defined.__module__.startswith(_PREFIX) or defined.__module__ == "__main__"
    return Path(file).name if is_file and file else defined.__module__


def import_code(name: str) -> ModuleType:
    """Import the user's own Python file or module, which may register layers, once per process.

    Args:
        name: The path of a ``.py`` file, or a module's name.

    Raises:
        ValueError: It can't be found, or raises an error.
    """
    path = Path(name)
    if path.suffix == ".py" and path.is_file():
        return run_file(path)
    if path.suffix == ".py":
        raise ValueError(f"{name!r} can't be imported: there is no such file")
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ValueError(
            f"{name!r} is not a .py file and can't be imported: {type(error).__name__}: {error}"
        ) from error


def run_file(path: Path) -> ModuleType:
    """Run a Python file as a module, once per process.

    Raises:
        ValueError: It raises an error.
    """
    name = f"{_PREFIX}{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise ValueError(f"{path} can't be run: {type(error).__name__}: {error}") from error
    return sys.modules[name]
