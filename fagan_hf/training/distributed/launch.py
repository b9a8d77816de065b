"""Settings that the process's launcher has passed in the environment."""

import os

from fagan_hf.training.recipe import Recipe
from fagan_hf.utils.devices import available_cores


def check_launcher(recipe: Recipe) -> None:
    """Refuse a precision passed to `accelerate launch` that the recipe would silently override.

    Raises:
        ValueError: The two differ; says where the flag belongs.
    """
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", recipe.mixed_precision):
        raise ValueError(
            f"accelerate launch was given mixed precision {launched!r}, but the recipe has "
            f"{recipe.mixed_precision!r}; pass --mixed_precision to the training script, not to accelerate launch"
        )


def cores_of_a_process() -> int:
    """Count the cores available to each process of this machine; by default launchers set one thread per process."""
    return max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
