"""One step of each player: what happens to a batch, and nothing about when."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from fagan_hf.losses import Loss
from training.augment import augment
from training.regularisation import PenaltyDraws, Regularisation


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
        labels: What the real images show and the fakes shall; none in an unconditional run.
        wrong_labels: What the real images don't show; none but for a matching-aware discriminator.
        penalty_draws: Random numbers of the penalties.
    """

    real: Float[Tensor, "batch 3 size size"]
    real_augment: Float[Tensor, "batch distortions 3"]
    latents: Float[Tensor, "batch latent_dim"]
    fake_augment: Float[Tensor, "batch distortions 3"]
    labels: Float[Tensor, "batch num_labels"] | None = None
    wrong_labels: Float[Tensor, "batch num_labels"] | None = None
    penalty_draws: PenaltyDraws = field(default_factory=PenaltyDraws)


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
        regularisation: Penalties of the discriminator.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        generator: Player,
        discriminator: Player,
        loss: Loss,
        policy: Sequence[str],
        regularisation: Regularisation | None = None,
    ):
        self.accelerator = accelerator
        self.generator = generator
        self.discriminator = discriminator
        self.loss = loss
        self.policy = tuple(policy)
        self.regularisation = regularisation or Regularisation()
        self.bare_generator = accelerator.unwrap_model(generator.network)
        self.bare_discriminator = accelerator.unwrap_model(discriminator.network)

    def discriminator_step(self, batches: Sequence[MicroBatch], step: int = 0) -> dict[str, Tensor]:
        """Teach the discriminator with one batch, given in micro-batches.

        Args:
            batches: What this process takes.
            step: Number of the step, from 0: not every one has penalties.

        Returns:
            Detached scalars on the device: ``discriminator_loss`` without penalties, ``real_logit`` and ``fake_logit``
            (means), ``wrong_label_logit`` if it is matching-aware, and each penalty without its weight.
        """
        penalties_due = self.regularisation.is_due(step)

        def loss_of(batch: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
            judge = self.discriminator.network
            with torch.no_grad():
                fake = augment(self.bare_generator(batch.latents, batch.labels), batch.fake_augment, self.policy)
            real = augment(batch.real, batch.real_augment, self.policy)
            real_logits, fake_logits = judge(real, batch.labels), judge(fake, batch.labels)
            loss = self.loss.discriminator(real_logits, fake_logits)
            numbers = {"real_logit": real_logits.mean(), "fake_logit": fake_logits.mean()}
            if batch.wrong_labels is not None:
                wrong_logits = judge(real, batch.wrong_labels)
                loss = (loss + self.loss.discriminator(real_logits, wrong_logits)) / 2
                numbers["wrong_label_logit"] = wrong_logits.mean()
            numbers["discriminator_loss"] = loss
            if penalties_due:
                critic = partial(self._exact_discriminator, labels=batch.labels)
                for name, (weight, penalty) in self.regularisation.penalise(
                    critic, real, fake, batch.penalty_draws
                ).items():
                    loss = loss + weight * penalty
                    numbers[name] = penalty
            return loss, numbers

        return self._step(self.discriminator, batches, loss_of)

    def generator_step(self, batches: Sequence[MicroBatch]) -> dict[str, Tensor]:
        """Teach the generator with one batch, given in micro-batches; real images are used by relative losses only.

        Returns:
            Detached scalar on the device: ``generator_loss``.
        """

        def loss_of(batch: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
            real_logits = None
            if self.loss.is_relative:
                with torch.no_grad():
                    real = augment(batch.real, batch.real_augment, self.policy)
                    real_logits = self.bare_discriminator(real, batch.labels)
            fake = augment(self.generator.network(batch.latents, batch.labels), batch.fake_augment, self.policy)
            loss = self.loss.generator(real_logits, self.bare_discriminator(fake, batch.labels))
            return loss, {"generator_loss": loss}

        self.bare_discriminator.requires_grad_(False)
        try:
            return self._step(self.generator, batches, loss_of)
        finally:
            self.bare_discriminator.requires_grad_(True)

    def _exact_discriminator(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Judge in full precision, for penalties: past the autocast that Accelerate puts around a forward pass.

        Between processes nothing is lost: the wrapper has prepared the gradients' exchange in the passes before, and it
        happens where gradients arrive, at the parameters.
        """
        return type(self.bare_discriminator).forward(self.bare_discriminator, images, labels)

    def _step(
        self,
        player: Player,
        batches: Sequence[MicroBatch],
        loss_of: Callable[[MicroBatch], tuple[Tensor, dict[str, Tensor]]],
    ) -> dict[str, Tensor]:
        """Add up the gradients of all micro-batches, then step."""
        numbers: list[dict[str, Tensor]] = []
        for batch in self._synchronising_last(player.network, batches):
            loss, told = loss_of(batch)
            self.accelerator.backward(loss / len(batches))
            numbers.append({name: number.detach() for name, number in told.items()})
        if player.max_gradient_norm is not None:
            nn.utils.clip_grad_norm_(player.network.parameters(), player.max_gradient_norm)
        player.optimizer.step()
        player.optimizer.zero_grad(set_to_none=True)
        return {name: torch.stack([each[name] for each in numbers]).mean() for name in numbers[0]}

    def _synchronising_last(self, network: nn.Module, batches: Sequence[MicroBatch]) -> Iterator[MicroBatch]:
        """Give the micro-batches one by one; gradients cross between processes with the last one."""
        for batch in batches[:-1]:
            with self.accelerator.no_sync(network):
                yield batch
        yield batches[-1]
