"""``fagan-hf train``: train a model from a recipe; the flags are the recipe's fields."""

from collections.abc import Sequence
from importlib.util import find_spec

_NEEDED = ("accelerate", "datasets", "jsonargparse", "matplotlib")


def run(arguments: Sequence[str]) -> None:
    """Train.

    Raises:
        ImportError: The extra ``train`` is not installed.
        SystemExit: See `fagan_hf.training.command.main`.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ImportError(f"training needs {', '.join(missing)}: pip install 'fagan-hf[train]'")
    from fagan_hf.training.command import main

    main(arguments, program="fagan-hf train")
