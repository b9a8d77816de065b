"""One training step of each player.

A step's gradient is that of the whole batch, for any number of processes and micro-batches. So every process computes
the loss of all logits, of which only its own have a graph.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import Adam, Optimizer

from fagan_hf.augmentations import augment
from fagan_hf.layers import hold_spectral_norms, refresh_spectral_norms
from fagan_hf.losses import Loss, accuracies, overfitting
from fagan_hf.training.distributed.processes import Processes
from fagan_hf.training.step.adaptive import AugmentProbability
from fagan_hf.training.step.compilation import compile_network
from fagan_hf.training.step.freezing import fix_layers
from fagan_hf.training.step.loss_scaling import LossScale
from fagan_hf.training.step.regularization import PenaltyDraws, Regularization
from fagan_hf.training.step.running_statistics import RunningStatistics


@dataclass(frozen=True)
class Player:
    """A network, wrapped for distributed training, with its optimizer.

    Attributes:
        network: As returned by `Accelerator.prepare`.
        optimizer: Optimizer of the network's parameters; a fused one, whose step can be skipped from the device.
        max_gradient_norm: Gradient-norm clip; ``None`` for no clipping.
        loss_scale: The factor on its loss; in float16 only.
    """

    network: nn.Module
    optimizer: Optimizer
    max_gradient_norm: float | None = None
    loss_scale: LossScale | None = None

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of the next step; a tensor is updated in place, where a CUDA graph reads it."""
        [group] = self.optimizer.param_groups
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def make_player(
    processes: Processes,
    network: nn.Module,
    rate: float,
    betas: tuple[float, float],
    compilation: str = "no",
    max_gradient_norm: float | None = None,
) -> Player:
    """Prepare a network for training, with its optimizer.

    Args:
        processes: Processes that share its steps.
        network: The unwrapped network; moved to the processes' device.
        rate: Initial learning rate.
        betas: Adam's decay rates.
        compilation: The recipe's `compile`.
        max_gradient_norm: See `Player`.
    """
    wrapped = processes.prepare(network)
    compile_network(network, compilation)
    is_captured = compilation == "cuda_graphs"
    lr = torch.tensor(rate, device=processes.device) if is_captured else rate  # a graph reads it from there
    optimizer = Adam(network.parameters(), lr=lr, betas=betas, fused=True, capturable=is_captured)
    loss_scale = LossScale(processes.device) if processes.precision == "fp16" else None
    return Player(wrapped, optimizer, max_gradient_norm, loss_scale)


@dataclass(frozen=True)
class MicroBatch:
    """Inputs of one forward and backward pass of one process, on the device.

    Attributes:
        real: Images in [-1, 1].
        real_augment: Augmentation parameters of each real image, see `fagan_hf.augmentations`.
        latents: Latents of as many fakes.
        fake_augment: Augmentation parameters of each fake.
        labels: Labels of both real images and fakes; none in an unconditional run.
        wrong_labels: Mismatched labels for the real images; only for a matching-aware discriminator.
        penalty_draws: Random numbers for the penalties.
    """

    real: Float[Tensor, "batch channels size size"]
    real_augment: Float[Tensor, "batch distortions numbers"]
    latents: Float[Tensor, "batch latent_dim"]
    fake_augment: Float[Tensor, "batch distortions numbers"]
    labels: Float[Tensor, "batch num_labels"] | None = None
    wrong_labels: Float[Tensor, "batch num_labels"] | None = None
    penalty_draws: PenaltyDraws = field(default_factory=PenaltyDraws)


Logits = dict[str, Tensor]
"""Logits ``[batch]`` by kind of image: ``real``, ``fake``, ``wrong`` (real images with wrong labels)."""


@dataclass(frozen=True)
class Objective:
    """Objective of a micro-batch.

    Attributes:
        loss: Mean over the whole batch.
        numbers: Scalar metrics.
        penalties: Weight and value by name, means over the micro-batch.
    """

    loss: Tensor
    numbers: Mapping[str, Tensor]
    penalties: Mapping[str, tuple[float, Tensor]] = field(default_factory=dict)


class Trainer:
    """Training steps of the two players.

    Each network is synchronized between processes in its own step only: the discriminator's step gets its fakes from
    the unwrapped generator, the generator's step its logits from the unwrapped, frozen discriminator. Spectral norms
    are updated once at the beginning of their network's step and are the same in all passes of it.

    A step whose loss or gradient is not finite leaves weights, moments and batch statistics unchanged. This is decided
    on the device, without synchronization. In float16 each player has a loss scale of its own, so an overflow of one
    does not concern the other.

    Args:
        processes: The processes that prepared the players' networks.
        generator: The generator, prepared for training.
        discriminator: The discriminator, prepared for training.
        loss: Adversarial loss of both players.
        policy: Names of the augmentations, see `fagan_hf.augmentations`.
        regularization: Penalties of the discriminator.
        probability: Probability of the augmentations; ``None`` applies all of them to every image.
        frozen_layers: Number of first layers of the discriminator that are not trained, see
            `fagan_hf.training.step.freezing`.
    """

    def __init__(
        self,
        processes: Processes,
        generator: Player,
        discriminator: Player,
        loss: Loss,
        policy: Sequence[str],
        regularization: Regularization | None = None,
        probability: AugmentProbability | None = None,
        frozen_layers: int = 0,
    ):
        self.processes = processes
        self.generator = generator
        self.discriminator = discriminator
        self.loss = loss
        self.policy = tuple(policy)
        self.regularization = regularization or Regularization()
        self.bare_generator = processes.unwrap(generator.network)
        self.bare_discriminator = processes.unwrap(discriminator.network)
        networks = self.bare_generator, self.bare_discriminator
        for network in networks:
            hold_spectral_norms(network)
        self.probability = probability
        self._trained_modules = fix_layers(self.bare_discriminator, frozen_layers)
        self._statistics = RunningStatistics(networks)

    def step(
        self, for_discriminator: Sequence[MicroBatch], for_generator: Sequence[MicroBatch], step: int
    ) -> dict[str, Tensor]:
        """Train both players once; arguments and results are those of `discriminator_step` and `generator_step`."""
        return self.discriminator_step(for_discriminator, step) | self.generator_step(for_generator)

    def discriminator_step(self, batches: Sequence[MicroBatch], step: int = 0) -> dict[str, Tensor]:
        """Train the discriminator with one batch, given as micro-batches.

        Args:
            batches: Micro-batches of this process.
            step: Index of the step, from 0: with lazy regularization not every step has penalties.

        Returns:
            Detached scalars on the device: ``discriminator_loss`` without penalties; ``real_logit``, ``fake_logit``
            and, if it is matching-aware, ``wrong_label_logit`` (means); ``real_accuracy``, ``fake_accuracy``; each
            penalty without its weight; ``real_variance``, ``fake_variance`` of pixels between images, before
            augmentation, if there are at least two images; with adaptive augmentation ``overfitting`` and
            ``augment_probability``; ``discriminator_gradient_norm``; ``discriminator_skipped``, 1 or 0; and in float16
            ``discriminator_overflowed``, 1 if the step was skipped because of its loss scale alone, and
            ``discriminator_loss_scale``.
        """
        before = self._statistics.remember()  # before generating fakes, which updates the generator's
        is_penalized = self.regularization.is_due(step)
        reals = [self._augment(batch.real, batch.real_augment) for batch in batches]
        with torch.no_grad():
            raw = [self.bare_generator(batch.latents, batch.labels) for batch in batches]
            fakes = [self._augment(fake, batch.fake_augment) for fake, batch in zip(raw, batches, strict=True)]

        def compute_logits(index: int, discriminator: nn.Module) -> Logits:
            batch, real, fake = batches[index], reals[index], fakes[index]
            logits = {"real": discriminator(real, batch.labels), "fake": discriminator(fake, batch.labels)}
            if batch.wrong_labels is not None:
                logits["wrong"] = discriminator(real, batch.wrong_labels)
            return logits

        def compute_loss(index: int, logits: Logits) -> Objective:
            real, fake = logits["real"], logits["fake"]
            loss = self.loss.discriminator(real, fake)
            real_accuracy, fake_accuracy = accuracies(self.loss, real, fake)
            numbers = {"real_logit": real.mean(), "fake_logit": fake.mean()}
            numbers |= {"real_accuracy": real_accuracy, "fake_accuracy": fake_accuracy}
            if self.probability is not None and self.probability.is_adaptive:
                numbers["overfitting"] = overfitting(self.loss, real, fake)
            if "wrong" in logits:
                loss = (loss + self.loss.discriminator(real, logits["wrong"])) / 2
                numbers["wrong_label_logit"] = logits["wrong"].mean()
            numbers["discriminator_loss"] = loss
            if not is_penalized:
                return Objective(loss, numbers)
            batch = batches[index]
            critic = partial(self._exact_discriminator, labels=batch.labels)
            penalties = self.regularization.penalize(critic, reals[index], fakes[index], batch.penalty_draws)
            return Objective(loss, numbers, penalties)

        for module in self._trained_modules:
            refresh_spectral_norms(module, iterations=1)
        numbers = self._accumulate(self.discriminator, len(batches), compute_logits, compute_loss)
        numbers |= self._update(
            "discriminator", self.discriminator, numbers["discriminator_loss"], len(batches), before
        )
        if "overfitting" in numbers:
            numbers |= self._adapt_probability(numbers, len(batches))
        if len(raw[0]) > 1:
            numbers |= {"real_variance": _variance([batch.real for batch in batches]), "fake_variance": _variance(raw)}
        return numbers

    def generator_step(self, batches: Sequence[MicroBatch]) -> dict[str, Tensor]:
        """Train the generator with one batch, given as micro-batches; only relativistic losses use the real images.

        Returns:
            Detached scalars on the device: ``generator_loss``, ``generator_gradient_norm``, ``generator_skipped``, and
            in float16 ``generator_overflowed`` and ``generator_loss_scale``, as for the discriminator.
        """

        def compute_logits(index: int, generator: nn.Module) -> Logits:
            batch, logits = batches[index], {}
            if self.loss.is_relative:
                with torch.no_grad():
                    real = self._augment(batch.real, batch.real_augment)
                    logits["real"] = self.bare_discriminator(real, batch.labels)
            fake = self._augment(generator(batch.latents, batch.labels), batch.fake_augment)
            return logits | {"fake": self.bare_discriminator(fake, batch.labels)}

        def compute_loss(index: int, logits: Logits) -> Objective:
            loss = self.loss.generator(logits.get("real"), logits["fake"])
            return Objective(loss, {"generator_loss": loss})

        refresh_spectral_norms(self.bare_generator, iterations=1)
        before = self._statistics.remember()
        trained = [each for each in self.bare_discriminator.parameters() if each.requires_grad]
        self.bare_discriminator.requires_grad_(False)
        try:
            numbers = self._accumulate(self.generator, len(batches), compute_logits, compute_loss)
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)
        return numbers | self._update("generator", self.generator, numbers["generator_loss"], len(batches), before)

    def loss_scales(self) -> dict[str, LossScale]:
        """Return the players' loss scales by a name for a checkpoint; none unless they compute in float16."""
        players = {"generator": self.generator, "discriminator": self.discriminator}
        return {
            f"{name}_loss_scale": player.loss_scale for name, player in players.items() if player.loss_scale is not None
        }

    def _augment(self, images: Tensor, draws: Tensor) -> Tensor:
        return augment(images, draws, self.policy, None if self.probability is None else self.probability.value)

    def _adapt_probability(self, numbers: Mapping[str, Tensor], parts: int) -> dict[str, Tensor]:
        """Adjust the probability of augmentations after the discriminator's step; return the one used in it."""
        assert self.probability is not None
        used, measured = self.probability.value.clone(), numbers["overfitting"]
        # Every process has the logits of all, so the same signs, except where they were computed again with a graph.
        if self.loss.compares_with_means and parts > 1:
            measured = self.processes.gather(measured[None])[0]
        not_taken = numbers["discriminator_skipped"] + numbers.get("discriminator_overflowed", 0.0)
        self.probability.observe(measured, not_taken == 0)
        return {"augment_probability": used}

    def _exact_discriminator(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Compute logits in full precision, for penalties, bypassing the autocast of Accelerate's wrapper.

        Gradients are still synchronized between processes: the wrapper has prepared the exchange in the previous
        passes, and it happens when gradients are accumulated in the parameters.
        """
        return type(self.bare_discriminator).forward(self.bare_discriminator, images, labels)

    def _accumulate(
        self,
        player: Player,
        parts: int,
        compute_logits: Callable[[int, nn.Module], Logits],
        compute_loss: Callable[[int, Logits], Objective],
    ) -> dict[str, Tensor]:
        """Accumulate the gradients of all micro-batches.

        Weights are divided by their spectral norms once per micro-batch, for all passes through a network; the result
        is cached until the graph of these passes is freed.

        Args:
            player: The player to train.
            parts: Number of micro-batches.
            compute_logits: Computes the logits of a micro-batch of this process, given its index and the player's
                network.
            compute_loss: Computes the objective from the whole batch's logits; penalties are those of the micro-batch.

        Returns:
            Means of the objectives' metrics and penalties over the micro-batches, detached.
        """
        all_logits = None
        if self.loss.compares_with_means and parts > 1:  # the batch means are needed first
            all_logits = self._compute_all_logits(compute_logits, self.processes.unwrap(player.network), parts)
        numbers = []
        for index in self._synchronizing_last(player.network, parts):
            with parametrize.cached():
                own = compute_logits(index, player.network)
                place, rows = (0, [self._gather(own)]) if all_logits is None else (index, all_logits)
                # The passes use the random numbers of `_compute_all_logits`, with or without penalties in between.
                with nullcontext() if all_logits is None else self._same_draws():
                    objective = compute_loss(index, self._among_all(own, rows, place))
                # A loss of this part's logits is a share of the whole; one of all logits is the whole, in every part.
                loss = objective.loss / parts if all_logits is None else objective.loss
                total = loss * self.processes.count  # gradients are averaged over the processes
                for weight, penalty in objective.penalties.values():
                    total = total + weight * penalty / parts
                self.processes.backward(total if player.loss_scale is None else total * player.loss_scale.value)
            penalties = {name: penalty for name, (_, penalty) in objective.penalties.items()}
            numbers.append({name: number.detach() for name, number in {**objective.numbers, **penalties}.items()})
        return {name: torch.stack([each[name] for each in numbers]).mean() for name in numbers[0]}

    def _update(
        self, name: str, player: Player, loss: Tensor, parts: int, before: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Take an optimizer step, unless loss or gradient is not finite; then restore batch statistics `before`."""
        if player.loss_scale is not None:
            player.loss_scale.unscale(player.network.parameters())
        norm = _gradient_norm(player)
        if self.loss.compares_with_means and parts > 1:  # rounded differently in each process; all skip the same steps
            loss = self.processes.gather(loss[None])[0]
        is_loss_finite = loss.isfinite()
        is_finite = norm.isfinite() & is_loss_finite
        player.optimizer.found_inf = is_finite.logical_not().float()  # pyright: ignore[reportAttributeAccessIssue]
        player.optimizer.step()
        player.optimizer.zero_grad(set_to_none=True)
        self._statistics.keep_if(is_finite, before)
        numbers = {f"{name}_gradient_norm": norm}
        is_skipped = is_finite.logical_not()
        if player.loss_scale is not None:
            numbers[f"{name}_loss_scale"] = player.loss_scale.value.clone()
            is_overflow = player.loss_scale.observe(is_finite, is_loss_finite)
            numbers[f"{name}_overflowed"] = is_overflow.float()
            is_skipped = is_skipped & ~is_overflow
        return numbers | {f"{name}_skipped": is_skipped.float()}

    def _compute_all_logits(
        self, compute_logits: Callable[[int, nn.Module], Logits], network: nn.Module, parts: int
    ) -> list[Tensor]:
        """Compute all logits without a graph, with the same random numbers as the later passes with one."""
        with torch.no_grad(), self._same_draws():
            return [self._gather(compute_logits(index, network)) for index in range(parts)]

    def _same_draws(self) -> AbstractContextManager[None]:
        """Restore the state of torch's global random generators after a block."""
        return torch.random.fork_rng([self.processes.device] if self.processes.device.type == "cuda" else [])

    def _gather(self, own: Logits) -> Float[Tensor, "processes names batch"]:
        """Gather the logits of a micro-batch from all processes."""
        return self.processes.gather(torch.stack([logits.detach() for logits in own.values()])[None])

    def _among_all(self, own: Logits, others: list[Tensor], index: int) -> Logits:
        """Insert logits that have a graph among those of all processes and micro-batches, in order."""
        rows = [row for part in others for row in part]
        rows[index * self.processes.count + self.processes.index] = torch.stack(list(own.values()))
        return dict(zip(own, torch.cat(rows, dim=1), strict=True))

    def _synchronizing_last(self, network: nn.Module, parts: int) -> Iterator[int]:
        """Iterate over the micro-batches; gradients are synchronized with the last one."""
        for index in range(parts - 1):
            with self.processes.no_sync(network):
                yield index
        yield parts - 1


def _gradient_norm(player: Player) -> Float[Tensor, ""]:
    """Return the norm of a player's gradient, and clip it if requested."""
    if player.max_gradient_norm is not None:
        return nn.utils.clip_grad_norm_(player.network.parameters(), player.max_gradient_norm)
    return nn.utils.get_total_norm([each.grad for each in player.network.parameters() if each.grad is not None])


def _variance(images: Sequence[Float[Tensor, "batch channels size size"]]) -> Float[Tensor, ""]:
    """Return the variance of pixels between images, averaged over pixels and micro-batches."""
    return torch.stack([each.var(0).mean() for each in images]).mean()
