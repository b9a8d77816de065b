"""What processes must agree on: gradients and losses for every loss, penalty and accumulation, written to a file.

Started alone, by torchrun, and on two hosts: ``python -m tests.training.agreement FOLDER``, with ``pictures/`` in it.
"""

import dataclasses
import os
import sys
from itertools import product
from pathlib import Path

import torch
from safetensors.torch import save_file

from fagan_hf.configs import DiscriminatorConfig
from fagan_hf.losses import LOSSES
from fagan_hf.presets import PRESETS
from tests.small import DISCRIMINATOR, GENERATOR
from training.loop import Run
from training.recipe import Recipe

STEPS = 20
PENALTIES = {
    "none": {},
    "r1r2": {"r1_gamma": 1.0, "r2_gamma": 1.0},
    "approximate": {"r1_gamma": 1.0, "approximate_penalties": True},
    "wasserstein": {"wasserstein_penalty": 10.0},
}
NORMED = DiscriminatorConfig(
    image_size=8, layers=(dataclasses.replace(DISCRIMINATOR.layers[0], batch_norm=True), DISCRIMINATOR.layers[1])
)
UNNORMED = dataclasses.replace(
    GENERATOR,
    layers=tuple(
        dataclasses.replace(layer, batch_norm=False) if hasattr(layer, "batch_norm") else layer
        for layer in GENERATOR.layers
    ),
)
MODELS = {"plain": (UNNORMED, DISCRIMINATOR), "normed": (GENERATOR, NORMED)}


def make_run(folder: Path, name: str, model: str, **changes) -> Run:
    PRESETS[model] = MODELS[model]
    recipe = Recipe(
        name=name,
        model=model,
        dataset=str(folder / "pictures"),
        output_dir=str(folder / f"runs-{os.environ.get('WORLD_SIZE', 1)}"),
        batch_size=8,
        augment=("colour", "translation"),
        cpu_threads=1,
        **changes,
    )
    run = Run(recipe)
    for network in (run.generator, run.discriminator):  # attention shall have a say from the first step
        for name, parameter in network.named_parameters():
            if name.endswith(("alpha", "gamma")):
                parameter.data.fill_(0.3)
    return run


def gradients(run: Run) -> dict[str, torch.Tensor]:
    """Those of the first step of each player."""
    found = {}
    for name, player in (("generator", run.trainer.generator), ("discriminator", run.trainer.discriminator)):
        parameters = dict(run.processes.unwrap(player.network).named_parameters())

        def record(*_, name=name, parameters=parameters):
            found.update(
                {f"{name}.{key}": each.grad.clone() for key, each in parameters.items() if each.grad is not None}
            )

        player.optimizer.register_step_pre_hook(record)
    run._step()
    return found


def losses(run: Run, steps: int) -> torch.Tensor:
    """Both players' losses in each step ``[steps, 2]``."""
    rows, add = [], run.means.add

    def record(numbers):
        rows.append([numbers["discriminator_loss"], numbers["generator_loss"]])
        add(numbers)

    run.means.add = record
    for _ in range(steps):
        run._step()
    return torch.tensor(rows)


def main(folder: Path) -> None:
    found = {}
    # Batch norm looks at a micro-batch, so accumulation is compared without it.
    cases = [*product(LOSSES, PENALTIES, (1, 2), ["normed"]), *product(LOSSES, ["r1r2"], (1, 2), ["plain"])]
    for loss, penalty, accumulation, model in cases:
        case = f"{loss}-{penalty}-{accumulation}-{model}"
        run = make_run(folder, case, model, loss=loss, gradient_accumulation=accumulation, **PENALTIES[penalty])
        found |= {f"gradient/{case}/{name}": tensor for name, tensor in gradients(run).items()}
        if penalty == "none":
            found[f"losses/{case}"] = losses(run, STEPS - 1)
            found |= {
                f"statistics/{case}/{name}": tensor
                for name, tensor in run.generator.named_buffers()
                if name.endswith("running_var")
            }
        run.lock and run.lock.release()
    rank = os.environ.get("RANK", "0")
    found = {name: tensor.contiguous() for name, tensor in found.items()}
    save_file(found, folder / f"found-{os.environ.get('WORLD_SIZE', 1)}-{rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
