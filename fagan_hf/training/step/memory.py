"""Memory of a step: estimated before the first one, and explained where it was not enough."""

import math
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fagan_hf.architectures.configs import Architecture
from fagan_hf.layers.functional import attention_kernel
from fagan_hf.losses import LOSSES
from fagan_hf.models import Discriminator, Generator
from fagan_hf.training.recipe import Precision, Recipe
from fagan_hf.training.step.regularization import PenaltyDraws, Regularization
from fagan_hf.utils.devices import available_memory

_NEVER_TOO_MANY_PIXELS = 2**18  # of a micro-batch: less than a gigabyte for the widest preset
# What libraries take besides tensors, and gaps between them. Measured on a CPU, with presets and batches of 4 to 128,
# the estimate is then 0.6 to 3 times what a step takes.
_WORKSPACE = 2
_COPIES = 4  # of all weights, besides those of the networks: the average, both moments, and gradients
_OF_A_CPU = "can't allocate memory"  # in torch's message


class OutOfMemoryError(ValueError):
    """A step needs more memory than there is; the message says what fits."""


@dataclass(frozen=True)
class StepMemory:
    """Memory of a step, without that of the program [bytes].

    Attributes:
        fixed: For weights and whatever else is the same for every batch.
        per_image: For each image of a micro-batch.
    """

    fixed: int
    per_image: int

    def of(self, images: int) -> int:
        """Return the memory of a micro-batch."""
        return self.fixed + self.per_image * images

    def images_in(self, available: int) -> int:
        """Return the size of the largest micro-batch that fits; 0 if none does."""
        return max(0, (available - self.fixed) // self.per_image)


def check_memory(recipe: Recipe, architecture: Architecture, device: torch.device, processes: int) -> None:
    """Refuse a run whose first step would not fit into the memory of a CPU's machine.

    Other devices refuse by themselves, which `explained` turns into words; a CPU's machine becomes slow first, and may
    then end any program.

    Raises:
        OutOfMemoryError: It would not.
    """
    images = _at_a_time(recipe, processes)
    if device.type != "cpu" or images * architecture[0].image_size ** 2 <= _NEVER_TOO_MANY_PIXELS:
        return
    available, needed = _of_cpu(), estimate(recipe, architecture)
    if available is None or needed is None:
        return
    if needed.of(images) > available:
        raise OutOfMemoryError(_explanation(recipe, architecture, needed, available, processes, "no"))


@contextmanager
def explained(recipe: Recipe, architecture: Architecture, processes: int, precision: Precision) -> Iterator[None]:
    """Raise torch's error of missing memory with what would fit.

    Raises:
        OutOfMemoryError: Instead of torch's error, which is its cause.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and _OF_A_CPU not in str(error):
            raise
        needed = estimate(recipe, architecture)
        available = _of_device()
        if needed is None or available is None:
            raise OutOfMemoryError(
                f"there is not enough memory for {_at_a_time(recipe, processes)} images at a time: {error}. Give a "
                "larger --gradient_accumulation, a smaller --batch_size, or a smaller model"
            ) from error
        raise OutOfMemoryError(_explanation(recipe, architecture, needed, available, processes, precision)) from error


def estimate(recipe: Recipe, architecture: Architecture) -> StepMemory | None:
    """Estimate the memory of a step, in float32, by running it for one and two images without computing anything.

    Returns:
        ``None`` for layers that can't run on torch's meta device.
    """
    try:
        penalties = Regularization.of(recipe)
        one, two = (_peak_of_a_step(recipe.loss, penalties, architecture, images) for images in (1, 2))
    except Exception:  # whatever a custom layer raises there: it may read values, which do not exist
        return None
    weights = 4 * sum(each.numel() for network in _on_meta(architecture) for each in network.parameters())
    per_image = max(1, _WORKSPACE * (two - one))
    return StepMemory(_WORKSPACE * one - per_image + _COPIES * weights, per_image)


def _on_meta(architecture: Architecture) -> tuple[Generator, Discriminator]:
    with torch.device("meta"):
        return Generator(architecture[0]), Discriminator(architecture[1])


@lru_cache(maxsize=16)  # it takes seconds, and a step that was checked may have to be explained
def _peak_of_a_step(loss_name: str, regularization: Regularization, architecture: Architecture, images: int) -> int:
    """Return the peak of all tensors of both players' passes, as `fagan_hf.training.step.steps` makes them [bytes]."""
    generator, discriminator = _on_meta(architecture)
    config, loss = generator.config, LOSSES[loss_name]
    size = config.image_size
    with torch.device("meta"):
        real = torch.empty(images, architecture[1].image_channels, size, size)
        latents = torch.empty(images, config.latent_dim)
        labels = torch.empty(images, config.num_labels) if config.num_labels else None
        draws = PenaltyDraws(torch.empty(images), torch.empty_like(real), torch.empty_like(real))
    # On the meta device the fused kernels would be replaced by one that holds all weights of attention.
    with attention_kernel("chunked"), _Live() as live:
        with torch.no_grad():
            fake = generator(latents, labels)
        total = loss.discriminator(discriminator(real, labels), discriminator(fake, labels))
        penalties = regularization.penalize(lambda pictures: discriminator(pictures, labels), real, fake, draws)
        for weight, penalty in penalties.values():
            total = total + weight * penalty
        total.backward()
        del total, fake, penalties
        discriminator.zero_grad()
        discriminator.requires_grad_(False)
        loss.generator(discriminator(real, labels), discriminator(generator(latents, labels), labels)).backward()
    return live.peak


class _Live(TorchDispatchMode):
    """Counts the bytes of all tensors that exist at the same time."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor):
                self._add(each.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _at_a_time(recipe: Recipe, processes: int) -> int:
    """Return the images of a micro-batch in each process."""
    return math.ceil(recipe.batch_size / recipe.gradient_accumulation / processes)


def _of_device() -> int | None:
    """Return the memory that a run may use on the current device [bytes]."""
    if not torch.cuda.is_available():
        return _of_cpu()
    free, _ = torch.cuda.mem_get_info()
    return free + torch.cuda.memory_reserved()


def _of_cpu() -> int | None:
    """Return the share of a machine's memory of each of the processes on it [bytes]."""
    available = available_memory()
    return None if available is None else available // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _explanation(
    recipe: Recipe,
    architecture: Architecture,
    needed: StepMemory,
    available: int,
    processes: int,
    precision: Precision,
) -> str:
    size, images = architecture[0].image_size, _at_a_time(recipe, processes)
    fits = needed.images_in(available)
    ways = []
    parts = [
        count
        for count in range(recipe.gradient_accumulation + 1, recipe.batch_size // processes + 1)
        if recipe.batch_size % (count * processes) == 0 and recipe.batch_size // count // processes <= fits
    ]
    if parts:
        ways.append(f"--gradient_accumulation {parts[0]}, which trains the same in smaller parts")
    if fits * processes * recipe.gradient_accumulation < recipe.batch_size and fits:
        ways.append(f"--batch_size {fits * processes * recipe.gradient_accumulation}")
    if precision == "no" and torch.cuda.is_available():
        ways.append("--mixed_precision auto, for about half of it")
    ways.append(f"a model with fewer channels, or for images smaller than {size}x{size}")
    return (
        f"a step with {images} images at a time at {size}x{size} needs about {_gigabytes(needed.of(images))} GB of "
        f"memory, and {_gigabytes(available)} GB are there. What fits: {'; '.join(ways)}"
    )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f}"
