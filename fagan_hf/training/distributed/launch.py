"""Settings that the process's launcher has passed in the environment."""

import os

from fagan_hf.training.recipe import Recipe
from fagan_hf.utils.devices import available_cores

# Accelerate's own switches, set by flags of `accelerate launch` or by a file of `accelerate config`.
_WAYS_OF_TRAINING = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
}
_YES = ("1", "true", "yes", "on", "y", "t")
_COMPILER = "ACCELERATE_DYNAMO_BACKEND"


def check_launcher(recipe: Recipe) -> None:
    """Refuse what was passed to `accelerate launch` and would not work here, or be silently overridden.

    Raises:
        ValueError: The launcher splits or compiles a model, or has another precision than the recipe; says what to give
            instead.
    """
    for variable, name in _WAYS_OF_TRAINING.items():
        if os.environ.get(variable, "").lower() in _YES:
            raise ValueError(
                f"accelerate launch was told to use {name}, which trains one network with one optimizer; a GAN has two "
                "of each, and they are small enough for every GPU to hold both. Leave it out: accelerate launch "
                "--multi_gpu trains on several GPUs. If it comes from accelerate config, run that again, or give "
                "--config_file another file"
            )
    if (compiler := os.environ.get(_COMPILER, "no")).lower() not in ("", "no"):
        raise ValueError(
            f"accelerate launch was told to compile with {compiler.lower()}, which would compile neither the steps nor "
            "the penalties; leave out --dynamo_backend, and pass --compile kernels or --compile cuda_graphs to the "
            "training script"
        )
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched == "fp8":
        raise ValueError(
            "accelerate launch was given mixed precision 'fp8', which convolutions can't compute in; leave it out: the "
            "training script's --mixed_precision auto chooses what the device has"
        )
    if launched not in ("no", recipe.mixed_precision):
        raise ValueError(
            f"accelerate launch was given mixed precision {launched!r}, but the recipe has "
            f"{recipe.mixed_precision!r}; pass --mixed_precision to the training script, not to accelerate launch"
        )


def cores_of_a_process() -> int:
    """Count the cores available to each process of this machine; by default launchers set one thread per process."""
    return max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
