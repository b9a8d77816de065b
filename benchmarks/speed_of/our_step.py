"""Our training step, without the training loop around it."""

from collections.abc import Iterable

import torch
from accelerate.state import AcceleratorState
from torch.optim import Optimizer

from fagan_hf.architectures.configs import DiscriminatorConfig, GeneratorConfig
from fagan_hf.losses import LOSSES
from fagan_hf.models import Discriminator, Generator
from fagan_hf.training.distributed.processes import Processes
from fagan_hf.training.recipe import Precision
from fagan_hf.training.step.regularization import Regularization
from fagan_hf.training.step.steps import MicroBatch, Trainer, make_player

Architecture = tuple[GeneratorConfig, DiscriminatorConfig]

RATES = (1e-4, 4e-4)  # of generator and discriminator: the defaults of our recipes and of the peer's training script
BETAS = (0.0, 0.9)


class Ours:
    """The step of `fagan_hf.training.step.steps`, as `training/train.py` takes it.

    Args:
        architecture: Configs of both networks.
        loss: A name in `fagan_hf.losses.LOSSES`.
        batch: Images per step.
        precision: Accelerate's ``mixed_precision``.
        regularization: Penalties, if any.
    """

    def __init__(
        self,
        architecture: Architecture,
        loss: str,
        batch: int,
        precision: Precision = "no",
        regularization: Regularization | None = None,
    ):
        AcceleratorState._reset_state(reset_partial_state=True)  # or the first precision would stay
        processes = Processes(precision)
        self.device = processes.device
        self.generator, self.discriminator = Generator(architecture[0]), Discriminator(architecture[1])
        networks = self.generator, self.discriminator
        players = [make_player(processes, network, rate, BETAS) for network, rate in zip(networks, RATES, strict=True)]
        self.optimizers = [player.optimizer for player in players]
        self.trainer = Trainer(processes, players[0], players[1], LOSSES[loss], (), regularization)
        self.latent_dim = architecture[0].latent_dim
        share = batch // processes.count
        self.real = torch.rand(share, 3, *[architecture[0].image_size] * 2, device=self.device) * 2 - 1
        self.no_augment = torch.zeros(share, 0, 3, device=self.device)

    def _batch(self) -> list[MicroBatch]:
        latents = torch.randn(len(self.real), self.latent_dim, device=self.device)
        return [MicroBatch(self.real, self.no_augment, latents, self.no_augment)]

    def step(self) -> None:
        """Update both players once."""
        self.trainer.step(self._batch(), self._batch(), step=0)


def fill_moments(optimizers: Iterable[Optimizer]) -> None:
    """Have optimizers allocate their state, so that it is not counted as memory of a step."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        optimizer.step()  # with zero gradients
        optimizer.zero_grad(set_to_none=True)
