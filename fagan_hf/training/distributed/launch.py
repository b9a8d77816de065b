"""What the launcher of a process has said about it."""

import os

from fagan_hf.training.recipe import Recipe
from fagan_hf.utils.devices import available_cores


def check_launcher(recipe: Recipe) -> None:
    """Refuse a precision that was given to `accelerate launch` and that the recipe would overrule in silence.

    Raises:
        ValueError: Says where the flag belongs.
    """
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", recipe.mixed_precision):
        raise ValueError(
            f"accelerate launch was given mixed precision {launched!r}, the recipe has {recipe.mixed_precision!r}; "
            "give --mixed_precision behind training/train.py"
        )


def cores_of_a_process() -> int:
    """Count the cores that each process of this machine can have; launchers set one thread where they are not told."""
    return max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
