"""The user's own Python files and modules, which register layers."""

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType


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
    name = f"fagan_architecture_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
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
