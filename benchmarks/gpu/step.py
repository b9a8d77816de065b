"""A training step with a recipe's settings on noise images, for checks and speed measurements."""

import torch
from accelerate.state import AcceleratorState

from fagan_hf.architectures.presets import preset
from fagan_hf.losses import LOSSES
from fagan_hf.models import Discriminator, Generator
from fagan_hf.training.distributed.processes import Processes
from fagan_hf.training.recipe import Precision
from fagan_hf.training.step.cuda_graphs import GraphedSteps
from fagan_hf.training.step.ema import AveragedGenerator
from fagan_hf.training.step.regularization import Regularization
from fagan_hf.training.step.steps import MicroBatch, Trainer, make_player

FLAGSHIP = Regularization(r1_gamma=2.0, r2_gamma=2.0, every_steps=4)
RATE, BETAS = 4e-4, (0.0, 0.99)


class Step:
    """Updates of both players and of the averaged generator, on the device that Accelerate finds.

    Args:
        model: Name of a preset.
        batch: Images per step.
        precision: ``"no"`` or ``"bf16"``.
        how: A recipe's `compile`.
        loss: A name in `fagan_hf.losses.LOSSES`.
        regularization: The discriminator's penalties.
        seed: Seed of weights and images.
    """

    def __init__(
        self,
        model: str,
        batch: int,
        precision: Precision = "no",
        how: str = "no",
        *,
        loss: str = "relativistic_pairing",
        regularization: Regularization = FLAGSHIP,
        seed: int = 0,
    ):
        AcceleratorState._reset_state(reset_partial_state=True)  # or the first precision would stay
        torch.manual_seed(seed)
        processes = Processes(precision)
        self.device, self.batch = processes.device, batch
        generator_config, discriminator_config = preset(model)
        self.generator, self.discriminator = Generator(generator_config), Discriminator(discriminator_config)
        players = [
            make_player(processes, network, RATE, BETAS, how) for network in (self.generator, self.discriminator)
        ]
        self.averaged = AveragedGenerator(self.generator, 50_000)
        trainer = Trainer(processes, players[0], players[1], LOSSES[loss], (), regularization)
        self._stepper = GraphedSteps(trainer) if how == "cuda_graphs" else trainer
        self.latent_dim, size = generator_config.latent_dim, generator_config.image_size
        self._random = torch.Generator(self.device).manual_seed(seed)
        shape = (batch, 3, size, size)
        real = torch.rand(shape, generator=self._random, device=self.device) * 2 - 1
        is_cuda = self.device.type == "cuda"
        self.real = real.to(memory_format=torch.channels_last) if is_cuda else real
        self.no_augment = torch.zeros(batch, 0, 3, device=self.device)
        self.steps = 0

    def _batch(self) -> list[MicroBatch]:
        latents = torch.randn(self.batch, self.latent_dim, generator=self._random, device=self.device)
        return [MicroBatch(self.real, self.no_augment, latents, self.no_augment)]

    def step(self) -> dict[str, torch.Tensor]:
        """Update both players once; every fourth step has penalties."""
        numbers = self._stepper.step(self._batch(), self._batch(), self.steps)
        self.steps += 1
        self.averaged.update(self.generator, self.batch, self.steps * self.batch)
        return numbers

    def run(self, steps: int) -> None:
        """Take several steps."""
        for _ in range(steps):
            self.step()

    def weights(self) -> list[torch.Tensor]:
        """Return all trained parameters of both networks."""
        return [each.detach() for network in (self.generator, self.discriminator) for each in network.parameters()]
