"""The batches of a run: each process's part of each step's images and draws, on its device."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fagan_hf.data import Images
from fagan_hf.streaming import ImageStream, open_stream
from training.augment import draw_augmentation, flip
from training.labels import Mismatcher
from training.randomness import data_order, draw_latents, random_seed, random_stream
from training.recipe import Recipe
from training.regularisation import PenaltyDraws, Regularisation
from training.steps import MicroBatch


@dataclass
class Batches:
    """Makes batches as a function of the images seen, and of nothing that came before.

    Every process draws the whole batch's random numbers, which are few, and keeps the rows that are its own. So the
    batch is the same however many processes share it.

    Attributes:
        images: The data, on disk or streamed.
        recipe: Batch size, accumulation, flips, augmentation, seed.
        latent_dim: Of the generator.
        device: Where batches go.
        process: Number of this process, from 0.
        processes: How many there are.
        attempt: Which draws: another number gives another order of the images and other random numbers.
    """

    images: Images | ImageStream
    recipe: Recipe
    latent_dim: int
    device: torch.device
    process: int = 0
    processes: int = 1
    attempt: int = 0

    def __post_init__(self):
        shares = self.recipe.gradient_accumulation * self.processes
        if self.recipe.batch_size % shares:
            raise ValueError(
                f"batch_size is {self.recipe.batch_size}; it must be a multiple of {shares}, "
                f"{self.processes} processes times {self.recipe.gradient_accumulation} accumulation steps"
            )
        if isinstance(self.images, Images) and len(self.images) < self.recipe.batch_size:
            raise ValueError(
                f"{self.recipe.dataset!r} has {len(self.images)} images, fewer than a batch of "
                f"{self.recipe.batch_size}; add images or give a smaller --batch_size"
            )

        _ = self._mismatcher  # refuses labels that can't be wrong, before training

    def go_to(self, images_seen: int, attempt: int) -> None:
        """Go on from a point of the run; a stream has to be opened anew for it."""
        has_moved = images_seen > 0 or attempt != self.attempt
        self.attempt = attempt
        if isinstance(self.images, ImageStream) and has_moved:
            self.images.close()
            # The stream finds `start` in the order of its seed: another seed here would be another order.
            seed = random_seed(self.recipe.seed, "order", 0, attempt) if attempt else self.recipe.seed
            self.images = open_stream(
                self.recipe.source(), seed=seed, process=self.process, processes=self.processes, start=images_seen
            )

    @property
    def content(self) -> str:
        """Identify the images by all of their pixels and labels; a stream, of which nobody has those, by its source."""
        return self.images.content if isinstance(self.images, Images) else self.images.fingerprint

    def close(self) -> None:
        """End the threads of a stream."""
        if isinstance(self.images, ImageStream):
            self.images.close()

    @cached_property
    def _mismatcher(self) -> Mismatcher | None:
        return Mismatcher(self.images.labels) if self.recipe.matching_aware else None

    def make(self, images_seen: int) -> tuple[list[MicroBatch], list[MicroBatch]]:
        """Make the micro-batches of the discriminator's step and of the generator's, which share their real images."""
        size, policy = self.recipe.batch_size, self.recipe.augment
        order = self._order(images_seen)
        flips = torch.rand(size, generator=self._random("flip", images_seen))

        def latents(player: str) -> Tensor:
            return draw_latents(self._random(f"{player}_latents", images_seen), size, self.latent_dim)

        def augmentation(stream: str) -> Tensor:
            return draw_augmentation(self._random(stream, images_seen), size, policy)

        d_draws = augmentation("real_augment"), latents("discriminator"), augmentation("fake_augment")
        g_draws = augmentation("generator_real_augment"), latents("generator"), augmentation("generator_fake_augment")
        wrong_labels = None if order is None else self._wrong_labels(order, images_seen)
        penalty_draws = self._penalty_draws(images_seen)
        parts = self._parts()
        reals = [self._real(part, order, flips[part]) for part in parts]

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

    def _order(self, images_seen: int) -> np.ndarray | None:
        """Say which images make the batch; a stream has an order of its own."""
        if isinstance(self.images, ImageStream):
            return None
        return data_order(self.recipe.seed, images_seen, self.recipe.batch_size, len(self.images), self.attempt)

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
                    shape = (size, *self.images.image_shape)
                    draws[stream] = torch.randn(shape, generator=self._random(stream, images_seen))
        return draws

    def _random(self, stream: str, images_seen: int) -> torch.Generator:
        return random_stream(self.recipe.seed, stream, images_seen, self.attempt)

    def _parts(self) -> np.ndarray:
        """Say which rows of the batch this process takes, for each micro-batch."""
        rows = np.arange(self.recipe.batch_size)
        return rows.reshape(self.recipe.gradient_accumulation, self.processes, -1)[:, self.process]

    def _real(
        self, part: np.ndarray, order: np.ndarray | None, flips: Tensor
    ) -> tuple[Float[Tensor, "batch 3 size size"], Tensor | None]:
        if isinstance(self.images, ImageStream):
            pixels, labels = self.images.take(len(part))
        else:
            assert order is not None
            pixels, labels = self.images.batch(order[part])
        images = self._to_device(pixels).float() / 127.5 - 1
        images = flip(images, self._to_device(flips)) if self.recipe.horizontal_flip else images
        return images, self._to_device(labels) if self.images.label_names else None

    def _to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)
