"""The batches of a run: each process's share of a step's images and random numbers, on its device."""

from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fagan_hf.augmentations import draw_augmentation, flip
from fagan_hf.data.cache import Images
from fagan_hf.data.stream import ImageStream, open_stream
from fagan_hf.training.recipe import Recipe
from fagan_hf.training.step.ahead import Ahead
from fagan_hf.training.step.labels import Mismatcher
from fagan_hf.training.step.randomness import data_order, draw_latents, random_seed, random_stream
from fagan_hf.training.step.regularization import PenaltyDraws, Regularization
from fagan_hf.training.step.steps import MicroBatch

Draws = dict[str, Tensor]
"""Inputs of a step by name, with one row per image."""
AUGMENT_STREAMS = ("real_augment", "fake_augment", "generator_real_augment", "generator_fake_augment")
PENALTY_DRAWS = tuple(field.name for field in fields(PenaltyDraws))


@dataclass
class Batches:
    """Makes batches as a pure function of the images seen.

    Every process samples the random numbers of the whole batch, which are few, and keeps its own rows. So the batch is
    the same for any number of processes.

    Attributes:
        images: The data, on disk or streamed.
        recipe: Batch size, accumulation, flips, augmentation, seed.
        latent_dim: Latent size of the generator.
        device: Device of the batches.
        process: Index of this process, from 0.
        processes: Number of processes.
        attempt: Part of the seed: another value gives another order of the images and other random numbers.
        prefetch: Whether to prepare the next step's batch in a thread. By default only if the device is not the CPU,
            which is busy training otherwise.
    """

    images: Images | ImageStream
    recipe: Recipe
    latent_dim: int
    device: torch.device
    process: int = 0
    processes: int = 1
    attempt: int = 0
    prefetch: bool | None = None

    def __post_init__(self):
        self.prefetch = self.device.type != "cpu" if self.prefetch is None else self.prefetch
        shares = self.recipe.gradient_accumulation * self.processes
        if self.recipe.batch_size % shares:
            raise ValueError(
                f"batch_size is {self.recipe.batch_size}; it must be a multiple of {shares}, "
                f"{self.processes} processes times {self.recipe.gradient_accumulation} accumulation steps"
            )
        if isinstance(self.images, Images) and len(self.images) < self.recipe.batch_size:
            raise ValueError(
                f"{self.recipe.dataset!r} has {len(self.images)} images, fewer than a batch of "
                f"{self.recipe.batch_size}; add images or use a smaller --batch_size"
            )

        _ = self._mismatcher  # refuses data without mismatched labels, before training

    def go_to(self, images_seen: int, attempt: int) -> None:
        """Continue from a point of the run; a stream is reopened for it."""
        has_moved = images_seen > 0 or attempt != self.attempt
        self.attempt = attempt
        if isinstance(self.images, ImageStream) and has_moved:
            self.images.close()
            # The stream's position `start` refers to the order of its seed: another seed would mean another order.
            seed = random_seed(self.recipe.seed, "order", 0, attempt) if attempt else self.recipe.seed
            self.images = open_stream(
                self.recipe.source(), seed=seed, process=self.process, processes=self.processes, start=images_seen
            )

    @property
    def content(self) -> str:
        """Identify the images by all of their pixels and labels; a stream, where those are unknown, by its source."""
        return self.images.content if isinstance(self.images, Images) else self.images.fingerprint

    def close(self) -> None:
        """End the threads."""
        if self._ahead:
            self._ahead.close()
        if isinstance(self.images, ImageStream):
            self.images.close()

    @cached_property
    def _mismatcher(self) -> Mismatcher | None:
        return Mismatcher(self.images.labels) if self.recipe.matching_aware else None

    def make(self, images_seen: int) -> tuple[list[MicroBatch], list[MicroBatch]]:
        """Return the micro-batches of the discriminator's and the generator's step, which share their real images.

        If the device is not the CPU, a thread prepares those of the next step meanwhile.
        """
        prepared = self._ahead.take((images_seen, self.attempt)) if self._ahead else None
        prepared = prepared or self._prepare(images_seen)
        if self._ahead:
            following = images_seen + self.recipe.batch_size
            self._ahead.start((following, self.attempt), lambda: self._prepare(following))
        batches = [self._on_device(part) for part in prepared]
        return [batch for batch, _ in batches], [batch for _, batch in batches]

    @cached_property
    def _ahead(self) -> Ahead[list[Draws]] | None:
        """The prefetcher; a stream needs none, because it is sequential and has its own threads."""
        is_ahead = self.prefetch and not isinstance(self.images, ImageStream)
        return Ahead() if is_ahead else None

    def _prepare(self, images_seen: int) -> list[Draws]:
        """Read and sample the inputs of a step: a dictionary of host tensors per micro-batch of this process."""
        size, recipe = self.recipe.batch_size, self.recipe
        order = self._order(images_seen)

        def latents(player: str) -> Tensor:
            return draw_latents(self._random(f"{player}_latents", images_seen), size, self.latent_dim)

        def augmentation(stream: str) -> Tensor:
            random = self._random(stream, images_seen)
            return draw_augmentation(random, size, recipe.augment, by_chance=recipe.augments_by_chance)

        draws = {
            "flips": torch.rand(size, generator=self._random("flip", images_seen)),
            "discriminator_latents": latents("discriminator"),
            "generator_latents": latents("generator"),
            **{name: augmentation(name) for name in AUGMENT_STREAMS},
            **self._penalty_draws(images_seen),
        }
        if order is not None and self._mismatcher is not None:
            random = torch.rand(size, generator=self._random("wrong_labels", images_seen), dtype=torch.float64)
            draws["wrong_labels"] = self._mismatcher.draw(order, random.numpy())
        return [self._draws_of(part, order, draws) for part in self._parts()]

    def _draws_of(self, part: np.ndarray, order: np.ndarray | None, draws: Draws) -> Draws:
        """Select some rows of the random numbers, and read the corresponding images."""
        if isinstance(self.images, ImageStream):
            pixels, labels = self.images.take(len(part))
        else:
            assert order is not None
            pixels, labels = self.images.batch(order[part])
        mine = {"pixels": pixels, **{name: draw[part] for name, draw in draws.items()}}
        if self.images.label_names:
            mine["labels"] = labels
        # Pinned memory allows asynchronous copies to the GPU, while the previous step is still running.
        return {name: tensor.pin_memory() for name, tensor in mine.items()} if self._is_pinned else mine

    @property
    def _is_pinned(self) -> bool:
        return self.device.type == "cuda"

    def _on_device(self, draws: Draws) -> tuple[MicroBatch, MicroBatch]:
        """Move a micro-batch to the device, and convert its 8-bit pixels to images there."""
        there = {name: tensor.to(self.device, non_blocking=self._is_pinned) for name, tensor in draws.items()}
        real = there["pixels"].float() / 127.5 - 1
        if self._is_pinned:  # fakes have this layout too; two layouts would compile every kernel twice
            real = real.contiguous(memory_format=torch.channels_last)
        real = flip(real, there["flips"]) if self.recipe.horizontal_flip else real
        for_generator = MicroBatch(
            real,
            there["generator_real_augment"],
            there["generator_latents"],
            there["generator_fake_augment"],
            labels=there.get("labels"),
        )
        for_discriminator = replace(
            for_generator,
            real_augment=there["real_augment"],
            latents=there["discriminator_latents"],
            fake_augment=there["fake_augment"],
            wrong_labels=there.get("wrong_labels"),
            penalty_draws=PenaltyDraws(**{name: there[name] for name in PENALTY_DRAWS if name in there}),
        )
        return for_discriminator, for_generator

    def _order(self, images_seen: int) -> np.ndarray | None:
        """Return the indices of the batch's images; ``None`` for a stream, which has its own order."""
        if isinstance(self.images, ImageStream):
            return None
        return data_order(self.recipe.seed, images_seen, self.recipe.batch_size, len(self.images), self.attempt)

    def _penalty_draws(self, images_seen: int) -> dict[str, Tensor]:
        """Sample the random numbers that the penalties of a step need, if any."""
        rules, size = Regularization.of(self.recipe), self.recipe.batch_size
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
        """Return the rows of the batch for this process, per micro-batch."""
        rows = np.arange(self.recipe.batch_size)
        return rows.reshape(self.recipe.gradient_accumulation, self.processes, -1)[:, self.process]
