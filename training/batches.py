"""The batches of a run: each process's part of each step's images and draws, on its device."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fagan_hf.data import Images
from training.augment import draw_augmentation, flip
from training.labels import Mismatcher
from training.randomness import data_order, draw_latents, random_stream
from training.recipe import Recipe
from training.regularisation import PenaltyDraws, Regularisation
from training.steps import MicroBatch


@dataclass(frozen=True)
class Batches:
    """Makes batches as a function of the images seen, and of nothing that came before.

    Every process draws the whole batch's random numbers, which are few, and keeps the rows that are its own. So the
    batch is the same however many processes share it.

    Attributes:
        images: The data.
        recipe: Batch size, accumulation, flips, augmentation, seed.
        latent_dim: Of the generator.
        device: Where batches go.
        process: Number of this process, from 0.
        processes: How many there are.
    """

    images: Images
    recipe: Recipe
    latent_dim: int
    device: torch.device
    process: int = 0
    processes: int = 1

    def __post_init__(self):
        shares = self.recipe.gradient_accumulation * self.processes
        if self.recipe.batch_size % shares:
            raise ValueError(
                f"batch_size is {self.recipe.batch_size}; it must be a multiple of {shares}, "
                f"{self.processes} processes times {self.recipe.gradient_accumulation} accumulation steps"
            )
        if len(self.images) < self.recipe.batch_size:
            raise ValueError(
                f"{self.recipe.dataset!r} has {len(self.images)} images, fewer than a batch of "
                f"{self.recipe.batch_size}; add images or give a smaller --batch_size"
            )

        _ = self._mismatcher  # refuses labels that can't be wrong, before training

    @cached_property
    def _mismatcher(self) -> Mismatcher | None:
        return Mismatcher(self.images.labels) if self.recipe.matching_aware else None

    def make(self, images_seen: int) -> tuple[list[MicroBatch], list[MicroBatch]]:
        """Make the micro-batches of the discriminator's step and of the generator's, which share their real images."""
        size, policy = self.recipe.batch_size, self.recipe.augment
        order = data_order(self.recipe.seed, images_seen, size, len(self.images))
        flips = torch.rand(size, generator=self._random("flip", images_seen))

        def latents(player: str) -> Tensor:
            return draw_latents(self._random(f"{player}_latents", images_seen), size, self.latent_dim)

        def augmentation(stream: str) -> Tensor:
            return draw_augmentation(self._random(stream, images_seen), size, policy)

        d_draws = augmentation("real_augment"), latents("discriminator"), augmentation("fake_augment")
        g_draws = augmentation("generator_real_augment"), latents("generator"), augmentation("generator_fake_augment")
        wrong_labels = self._wrong_labels(order, images_seen)
        penalty_draws = self._penalty_draws(images_seen)
        parts = self._parts()
        reals = [self._real(order[part], flips[part]) for part in parts]

        def micro_batches(draws: tuple[Tensor, ...], for_discriminator: bool) -> list[MicroBatch]:
            batches = []
            for (real, labels), part in zip(reals, parts, strict=True):
                rows = [self._to_device(draw[part]) for draw in draws]
                batch = MicroBatch(real, *rows, labels=labels)
                if for_discriminator:
                    mine = {name: self._to_device(draw[part]) for name, draw in penalty_draws.items()}
                    wrong = None if wrong_labels is None else self._to_device(wrong_labels[part])
                    batch = replace(batch, wrong_labels=wrong, penalty_draws=PenaltyDraws(**mine))
                batches.append(batch)
            return batches

        return micro_batches(d_draws, True), micro_batches(g_draws, False)

    def _wrong_labels(self, order: np.ndarray, images_seen: int) -> Tensor | None:
        if self._mismatcher is None:
            return None
        draws = torch.rand(len(order), generator=self._random("wrong_labels", images_seen), dtype=torch.float64)
        return self._mismatcher.draw(order, draws.numpy())

    def _penalty_draws(self, images_seen: int) -> dict[str, Tensor]:
        """Draw what the penalties of a step take, if they take anything."""
        rules, size = Regularisation.of(self.recipe), self.recipe.batch_size
        if not rules.is_due(images_seen // size):
            return {}
        draws = {}
        if rules.wasserstein_weight:
            draws["mix"] = torch.rand(size, generator=self._random("penalty_mix", images_seen))
        if rules.sigma is not None:
            for stream, gamma in (("real_noise", rules.r1_gamma), ("fake_noise", rules.r2_gamma)):
                if gamma:
                    shape = (size, *self.images.array.shape[1:])
                    draws[stream] = torch.randn(shape, generator=self._random(stream, images_seen))
        return draws

    def _random(self, stream: str, images_seen: int) -> torch.Generator:
        return random_stream(self.recipe.seed, stream, images_seen)

    def _parts(self) -> np.ndarray:
        """Say which rows of the batch this process takes, for each micro-batch."""
        rows = np.arange(self.recipe.batch_size)
        return rows.reshape(self.recipe.gradient_accumulation, self.processes, -1)[:, self.process]

    def _real(self, indices: np.ndarray, flips: Tensor) -> tuple[Float[Tensor, "batch 3 size size"], Tensor | None]:
        pixels, labels = self.images.batch(indices)
        images = self._to_device(pixels).float() / 127.5 - 1
        images = flip(images, self._to_device(flips)) if self.recipe.horizontal_flip else images
        return images, self._to_device(labels) if self.images.label_names else None

    def _to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)
