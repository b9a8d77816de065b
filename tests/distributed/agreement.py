"""Values that processes must agree on: gradients and losses for every loss, penalty and accumulation, to a file.

Started alone, by a launcher, and on two hosts: ``python -m tests.distributed.agreement FOLDER NAME``; ``FOLDER`` has
``FOLDER/pictures``, and NAME is part of the file's.
"""

import copy
import dataclasses
import os
import sys
from itertools import product
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.optim import Adam

from fagan_hf.architectures.configs import DiscriminatorConfig
from fagan_hf.data.image_source import ImageSource
from fagan_hf.data.prepare import prepare_images
from fagan_hf.losses import LOSSES
from fagan_hf.models import Discriminator, Generator
from fagan_hf.training.distributed.processes import Processes
from fagan_hf.training.recipe import Recipe
from fagan_hf.training.step.batches import Batches
from fagan_hf.training.step.regularization import Regularization
from fagan_hf.training.step.steps import Player, Trainer
from tests.small import DISCRIMINATOR, GENERATOR

STEPS = 8
BATCH_SIZE = 8
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

# One step of every loss with every penalty, and of both in one part and in two. Batch norm is per micro-batch, so
# parts are compared without it.
FIRST_STEPS = [
    *(
        (loss, penalty, 1 + (row + column) % 2, "normed")
        for row, loss in enumerate(LOSSES)
        for column, penalty in enumerate(PENALTIES)
    ),
    *product(LOSSES, ["r1r2"], (1, 2), ["plain"]),
    *product(["hinge"], ["approximate"], (1, 2), ["plain"]),
]
# Each loss, penalty and accumulation, for a few steps.
LONG = [
    (loss, list(PENALTIES)[index % len(PENALTIES)], 1 + (index + index // 2) % 2, "normed")
    for index, loss in enumerate(LOSSES)
]


def initial_networks(model):
    torch.manual_seed(0)
    configs = MODELS[model]
    networks = Generator(configs[0]), Discriminator(configs[1])
    for network in networks:  # so that attention contributes from the first step
        for name, parameter in network.named_parameters():
            if name.endswith(("alpha", "gamma")):
                parameter.data.fill_(0.3)
    return networks


class Case:
    """Two players in their initial state, and their batches."""

    def __init__(self, processes, images, networks, recipe):
        self.networks = dict(zip(("generator", "discriminator"), copy.deepcopy(networks), strict=True))
        self.gradients, self.seen = {}, 0
        players = [self._player(processes, name) for name in self.networks]
        self.trainer = Trainer(processes, *players, LOSSES[recipe.loss], recipe.augment, Regularization.of(recipe))
        self.batches = Batches(images, recipe, 8, processes.device, processes.index, processes.count)

    def _player(self, processes, name):
        network = self.networks[name]

        def record(*_):
            for key, parameter in network.named_parameters():
                if parameter.grad is not None:
                    self.gradients[f"{name}.{key}"] = parameter.grad.clone()

        optimizer = Adam(network.parameters(), lr=1e-4, betas=(0.0, 0.9), fused=True)
        optimizer.register_step_pre_hook(record)
        return Player(processes.prepare(network), optimizer)

    def step(self):
        """Take a step; return both losses."""
        for_discriminator, for_generator = self.batches.make(self.seen)
        numbers = self.trainer.discriminator_step(for_discriminator, step=self.seen // BATCH_SIZE)
        numbers |= self.trainer.generator_step(for_generator)
        self.seen += BATCH_SIZE
        return torch.stack([numbers["discriminator_loss"], numbers["generator_loss"]])

    def statistics(self):
        return {
            f"{player}.{key}": tensor.clone()
            for player, network in self.networks.items()
            for key, tensor in network.named_buffers()
            if "running" in key
        }


def find(folder: Path, is_short: bool) -> dict[str, torch.Tensor]:
    """Compute the values to compare; if short, only the first steps of the long cases, and two of them to the end."""
    torch.set_num_threads(1)
    common = {
        "name": "x",
        "model": str(folder / "tiny.json"),
        "dataset": str(folder / "pictures"),
        "batch_size": BATCH_SIZE,
    }
    common |= {"augment": ("color", "translation")}
    processes, networks = Processes(), {model: initial_networks(model) for model in MODELS}
    with processes.uneven_work():
        images = prepare_images(ImageSource(dataset=str(folder / "pictures"), resolution=8), progress=False)
    found = {}
    for case in dict.fromkeys([*LONG, *([] if is_short else FIRST_STEPS)]):
        loss, penalty, accumulation, model = case
        recipe = Recipe(**common, loss=loss, gradient_accumulation=accumulation, **PENALTIES[penalty])
        players, name = Case(processes, images, networks[model], recipe), "-".join(map(str, case))
        rows = [players.step()]
        statistics = {f"first_statistics/{name}/{key}": tensor for key, tensor in players.statistics().items()}
        found |= {f"gradient/{name}/{key}": gradient for key, gradient in players.gradients.items()}
        if case in (LONG[:2] if is_short else LONG):
            rows += [players.step() for _ in range(STEPS - 1)]
            found[f"losses/{name}"] = torch.stack(rows)
            found |= statistics
            found |= {f"statistics/{name}/{key}": tensor for key, tensor in players.statistics().items()}
    return {key: tensor.contiguous() for key, tensor in found.items()}


if __name__ == "__main__":
    folder, rank, world = Path(sys.argv[1]), os.environ.get("RANK", "0"), sys.argv[2]
    save_file(find(folder, is_short=world == "hosts"), folder / f"{world}-{rank}.safetensors")
