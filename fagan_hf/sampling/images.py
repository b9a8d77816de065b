"""From seeds to images: the same picture for a seed whatever the batch, the device and the day."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from fagan_hf.models import Discriminator, Generator
from fagan_hf.models.generator import check_latents
from fagan_hf.models.labels import check_label_range, check_labels
from fagan_hf.sampling.labels import draw_labels
from fagan_hf.sampling.seeds import MAX_SEED
from fagan_hf.utils.label_names import label_values
from fagan_hf.viz.grids import enlarged, image_grid

PROGRESS_FROM_IMAGES = 256  # below, a job is over before a bar could be read
MAX_CPU_BATCH_SIZE = 64
"""What a batch is at most on a CPU, unless asked for: 256 images at a time were no faster, one by one half as fast."""
MAX_BATCH_SIZE = 512
"""The same elsewhere."""
_SHARE_OF_MEMORY = 0.5  # the rest is for the pictures, and for whoever else is there
_FACTOR_OF_MEMORY = 2  # for what no module puts out: scratch of convolutions, attention's copies in single precision


def latents_from_seeds(
    seeds: Sequence[int], latent_dim: int, truncation: float = 1.0
) -> Float[Tensor, "seeds latent_dim"]:
    """Draw one latent per seed, each from a CPU generator of its own, so that no seed depends on another.

    Args:
        seeds: Whole numbers from 0 to `MAX_SEED`.
        latent_dim: Length of a latent.
        truncation: What the standard normal latents are multiplied with, above 0: below 1 for pictures nearer to the
            mean and less varied.

    Returns:
        float32, on the CPU.

    Raises:
        ValueError: A seed is no whole number in the range, or ``truncation`` is not positive and finite.
    """
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed <= MAX_SEED:
            raise ValueError(f"seed is {seed!r}; it must be a whole number from 0 to {MAX_SEED}")
    if not 0 < truncation < float("inf"):
        raise ValueError(f"truncation is {truncation}; it must be above 0, usually between 0.5 and 1")
    draw = torch.Generator()
    rows = [torch.randn(latent_dim, generator=draw.manual_seed(int(seed))) for seed in seeds]
    return truncation * torch.stack(rows) if rows else torch.empty(0, latent_dim)


LabelSpec = Mapping[str, Any] | Sequence[Mapping[str, Any]]


def labels_from_seeds(
    generator: Generator, seeds: Sequence[int], wishes: LabelSpec | None = None
) -> Float[Tensor, "seeds num_labels"] | None:
    """Draw the labels of a conditional generator's pictures, one vector per seed.

    Args:
        generator: Knows its labels' names, and how often each holds in its training data.
        seeds: Those of the latents; a wish changes neither the latent nor any other label of its seed.
        wishes: What shall hold, such as ``{"beard": True, "hair": "red"}``, for all or as a list with one for each.

    Returns:
        float32 on the CPU; ``None`` for an unconditional generator.

    Raises:
        ValueError: There is no such label; or the generator has none, and there are wishes.
    """
    names = generator.config.label_names
    if generator.label_frequencies is None:
        if wishes:
            raise ValueError(f"labels are {wishes!r}, but this generator was trained without any")
        return None
    return draw_labels(names, generator.label_frequencies, seeds, wishes)


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Put a network into eval mode and leave every module's mode as it was found."""
    modes = {module: module.training for module in network.modules()}
    try:
        network.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def input_batches(
    network: Generator | Discriminator, inputs: Tensor, labels: Tensor | None, batch_size: int
) -> Iterator[tuple[Tensor, ...]]:
    """Cut a network's inputs, and their labels if there are any, into batches of its device and dtype."""
    for start in range(0, len(inputs), batch_size):
        yield _input_batch(network, inputs, labels, slice(start, start + batch_size))


def _input_batch(
    network: Generator | Discriminator, inputs: Tensor, labels: Tensor | None, rows: slice
) -> tuple[Tensor, ...]:
    given = [tensor for tensor in (inputs, labels) if tensor is not None]
    return tuple(tensor[rows].to(network.device, network.dtype) for tensor in given)


def sample(
    generator: Generator,
    latents: Float[Tensor, "count latent_dim"],
    labels: Float[Tensor, "count num_labels"] | None = None,
    *,
    batch_size: int | None = None,
    progress: bool = True,
) -> Iterator[Float[Tensor, "batch 3 size size"]]:
    """Turn latents into images, batch by batch.

    Args:
        generator: On any device, in any mode: it works in eval mode and comes back as it was.
        latents: On any device.
        labels: As many, for a conditional generator.
        batch_size: Images at a time; changes memory and speed, not the pictures. By default the first image comes
            alone, and by what it takes the others come as many at a time as fit into half of the memory that is free,
            at most `MAX_CPU_BATCH_SIZE` or `MAX_BATCH_SIZE`. An accelerator that runs out of memory gets half as many.
        progress: Show a bar, on jobs of some length?

    Yields:
        Images in [-1, 1], float32, on the generator's device.

    Raises:
        ValueError: ``batch_size`` is not positive, the latents have another length than the generator's, or the labels
            don't fit.
        torch.OutOfMemoryError: Not even one image fits.
    """
    check_latents(latents, generator.config.latent_dim)
    labels = check_labels(labels, generator.config.label_names, len(latents))
    if labels is not None:
        check_label_range(labels)
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(f"batch_size is {batch_size!r}; it must be a whole number of at least 1")
    is_hidden = not progress or len(latents) < PROGRESS_FROM_IMAGES
    done, size = 0, batch_size or 1
    with tqdm(total=len(latents), desc="Generating", unit="img", disable=is_hidden) as bar:
        while done < len(latents):
            is_measured = batch_size is None and done == 0
            with _output_sizes(generator) if is_measured else nullcontext([]) as outputs:
                images = _draw(generator, _input_batch(generator, latents, labels, slice(done, done + size)))
            if images is None:
                size = min(size, len(latents) - done) // 2
                continue
            if is_measured:
                size = fitting_batch_size(generator.device, sum(outputs))
            done += len(images)
            yield images
            bar.update(len(images))


def _draw(generator: Generator, batch: tuple[Tensor, ...]) -> Float[Tensor, "batch 3 size size"] | None:
    """Draw a batch, or give ``None`` where memory is too small for it; one image must fit.

    In a function of its own, so that nothing of a failed batch is still held when a smaller one is drawn.
    """
    try:
        with eval_mode(generator), torch.inference_mode():
            return generator(*batch).float()
    except torch.OutOfMemoryError:
        if len(batch[0]) == 1:
            raise
    return None


@contextmanager
def _output_sizes(network: nn.Module) -> Iterator[list[int]]:
    """Record how large the modules' outputs are in a forward pass of this context [bytes each]."""
    sizes: list[int] = []

    def hook(module: nn.Module, args: tuple, output: Any) -> None:
        sizes.append(output.nbytes if isinstance(output, Tensor) else 0)

    with ExitStack() as stack:
        for name, module in network.named_modules():
            if "parametrizations" not in name:  # those put out weights, which don't grow with the batch
                stack.enter_context(module.register_forward_hook(hook))
        yield sizes


def fitting_batch_size(device: torch.device, bytes_per_image: int) -> int:
    """Say how many images at a time fit into half of a device's free memory, at least 1.

    Args:
        device: Whose memory it is.
        bytes_per_image: All that the modules put out for one image. Most of it is free again before the last of it is
            made: a pass took 0.3 to 0.7 of it with each preset. It counts twice, for what other devices need beside it.
    """
    largest = MAX_CPU_BATCH_SIZE if device.type == "cpu" else MAX_BATCH_SIZE
    free = _free_memory(device)
    if free is None:  # nobody says
        return MAX_CPU_BATCH_SIZE
    return max(1, min(largest, int(_SHARE_OF_MEMORY * free / (_FACTOR_OF_MEMORY * max(1, bytes_per_image)))))


def _free_memory(device: torch.device) -> int | None:
    """Ask how much memory can still be taken on a device [bytes]."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "cpu":
        try:
            lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        except OSError:  # not on Linux
            return None
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
    return None


def to_uint8(images: Float[Tensor, "batch 3 height width"]) -> UInt8[np.ndarray, "batch height width 3"]:
    """Turn images in [-1, 1] into 8-bit RGB, rounded to the nearest."""
    scaled = (images * 127.5 + 127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def generate_images(
    generator: Generator,
    latents: Float[Tensor, "count latent_dim"],
    labels: Float[Tensor, "count num_labels"] | None = None,
    *,
    batch_size: int | None = None,
    progress: bool = True,
) -> UInt8[np.ndarray, "count height width 3"]:
    """Turn latents into 8-bit RGB pictures; arguments and errors are those of `sample`."""
    size = generator.config.image_size
    batches = sample(generator, latents, labels, batch_size=batch_size, progress=progress)
    pictures = map(to_uint8, batches)
    return np.concatenate([np.empty((0, size, size, 3), np.uint8), *pictures])


def label_grid(
    generator: Generator,
    seeds: Sequence[int],
    rows: Sequence[Mapping[str, Any]] | None = None,
    *,
    truncation: float = 1.0,
    scale: int = 1,
    batch_size: int | None = None,
) -> Image.Image:
    """Draw what each label does: a row for each value of each label, a column for each seed.

    Down a column everything but that label is the same.

    Args:
        generator: A conditional one.
        seeds: Of the columns.
        rows: What is wished for in each; by default each value of each label.
        truncation: See `latents_from_seeds`; the generator is taken as it is.
        scale: How often each pixel is repeated, in both directions.
        batch_size: Images at a time; see `sample`.

    Raises:
        ValueError: The generator is unconditional, or see `latents_from_seeds`.
    """
    rows = label_values(generator.config.label_names) if rows is None else rows
    if not rows:
        raise ValueError("this generator was trained without labels; there is nothing to show row by row")
    latents = latents_from_seeds(seeds, generator.config.latent_dim, truncation).repeat(len(rows), 1)
    labels = torch.cat([_some(labels_from_seeds(generator, seeds, wishes)) for wishes in rows])
    captions = [", ".join(f"{name}: {_word(value)}" for name, value in wishes.items()) for wishes in rows]
    images = generate_images(generator, latents, labels, batch_size=batch_size, progress=False)
    return image_grid(enlarged(images, scale), len(seeds), captions)


def _some(labels: Tensor | None) -> Tensor:
    assert labels is not None
    return labels


def _word(value: Any) -> str:
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)
