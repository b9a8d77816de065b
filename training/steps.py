"""One step of each player: what happens to a batch, and nothing about when."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from fagan_hf.losses import Loss
from training.augment import augment


@dataclass(frozen=True)
class Player:
    """A network, wrapped for as many processes as there are, and what trains it.

    Attributes:
        network: As `Accelerator.prepare` gave it.
        optimizer: Over the network's parameters.
        max_gradient_norm: Gradients are shortened to it; ``None`` leaves them.
    """

    network: nn.Module
    optimizer: Optimizer
    max_gradient_norm: float | None = None


@dataclass(frozen=True)
class MicroBatch:
    """What one forward and backward pass of one process takes, all of it on the device.

    Attributes:
        real: Images in [-1, 1].
        real_augment: How each real image is distorted, see `training.augment`.
        latents: For as many fakes.
        fake_augment: How each fake is distorted.
    """

    real: Float[Tensor, "batch 3 size size"]
    real_augment: Float[Tensor, "batch distortions 3"]
    latents: Float[Tensor, "batch latent_dim"]
    fake_augment: Float[Tensor, "batch distortions 3"]


class Trainer:
    """The two players and the rules of their game.

    Each network is synchronised between processes in its own step only: the discriminator's step takes its fakes from
    the bare generator, the generator's step its logits from the bare discriminator, frozen.

    Args:
        accelerator: Made the players' networks ready.
        generator: The one player.
        discriminator: The other one.
        loss: What both minimise.
        policy: Names of the distortions, see `training.augment`.
    """

    def __init__(
        self, accelerator: Accelerator, generator: Player, discriminator: Player, loss: Loss, policy: Sequence[str]
    ):
        self.accelerator = accelerator
        self.generator = generator
        self.discriminator = discriminator
        self.loss = loss
        self.policy = tuple(policy)
        self.bare_generator = accelerator.unwrap_model(generator.network)
        self.bare_discriminator = accelerator.unwrap_model(discriminator.network)

    def discriminator_step(self, batches: Sequence[MicroBatch]) -> dict[str, Tensor]:
        """Teach the discriminator with one batch, given in micro-batches.

        Returns:
            Detached scalars on the device: ``discriminator_loss``, ``real_logit``, ``fake_logit`` (means).
        """

        def loss_of(batch: MicroBatch) -> dict[str, Tensor]:
            with torch.no_grad():
                fake = augment(self.bare_generator(batch.latents), batch.fake_augment, self.policy)
            real_logits = self.discriminator.network(augment(batch.real, batch.real_augment, self.policy))
            fake_logits = self.discriminator.network(fake)
            loss = self.loss.discriminator(real_logits, fake_logits)
            return {"discriminator_loss": loss, "real_logit": real_logits.mean(), "fake_logit": fake_logits.mean()}

        return self._step(self.discriminator, batches, loss_of)

    def generator_step(self, batches: Sequence[MicroBatch]) -> dict[str, Tensor]:
        """Teach the generator with one batch, given in micro-batches; real images are used by relative losses only.

        Returns:
            Detached scalar on the device: ``generator_loss``.
        """

        def loss_of(batch: MicroBatch) -> dict[str, Tensor]:
            real_logits = None
            if self.loss.is_relative:
                with torch.no_grad():
                    real_logits = self.bare_discriminator(augment(batch.real, batch.real_augment, self.policy))
            fake = augment(self.generator.network(batch.latents), batch.fake_augment, self.policy)
            return {"generator_loss": self.loss.generator(real_logits, self.bare_discriminator(fake))}

        self.bare_discriminator.requires_grad_(False)
        try:
            return self._step(self.generator, batches, loss_of)
        finally:
            self.bare_discriminator.requires_grad_(True)

    def _step(
        self, player: Player, batches: Sequence[MicroBatch], loss_of: Callable[[MicroBatch], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Add up the gradients of all micro-batches, then step. The first of the numbers is the loss."""
        numbers: list[dict[str, Tensor]] = []
        for batch in self._synchronising_last(player.network, batches):
            numbers.append(loss_of(batch))
            self.accelerator.backward(next(iter(numbers[-1].values())) / len(batches))
        if player.max_gradient_norm is not None:
            nn.utils.clip_grad_norm_(player.network.parameters(), player.max_gradient_norm)
        player.optimizer.step()
        player.optimizer.zero_grad(set_to_none=True)
        return {name: torch.stack([each[name].detach() for each in numbers]).mean() for name in numbers[0]}

    def _synchronising_last(self, network: nn.Module, batches: Sequence[MicroBatch]) -> Iterator[MicroBatch]:
        """Give the micro-batches one by one; gradients cross between processes with the last one."""
        for batch in batches[:-1]:
            with self.accelerator.no_sync(network):
                yield batch
        yield batches[-1]
