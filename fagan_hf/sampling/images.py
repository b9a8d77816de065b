"""From seeds to images: each seed maps to the same image, whatever the batch size and device."""

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

from fagan_hf.models import Generator
from fagan_hf.models.generator import check_latents
from fagan_hf.models.labels import check_label_range, check_labels
from fagan_hf.sampling.labels import draw_labels
from fagan_hf.sampling.seeds import MAX_SEED
from fagan_hf.utils.label_names import label_values
from fagan_hf.viz.grids import enlarged, image_grid

PROGRESS_FROM_IMAGES = 256  # smaller jobs finish too quickly for a progress bar
MAX_CPU_BATCH_SIZE = 64
"""Maximum default batch size on a CPU: batches of 256 were no faster, single images half as fast."""
MAX_BATCH_SIZE = 512
"""Maximum default batch size on other devices."""
_SHARE_OF_MEMORY = 0.5  # the rest is for the resulting images and for other programs
_FACTOR_OF_MEMORY = 2  # for memory besides module outputs: convolution workspaces, single-precision copies in attention


def latents_from_seeds(
    seeds: Sequence[int], latent_dim: int, truncation: float = 1.0
) -> Float[Tensor, "seeds latent_dim"]:
    """Sample one latent per seed, each from a separate CPU generator, so that seeds are independent of each other.

    Args:
        seeds: Whole numbers from 0 to `MAX_SEED`.
        latent_dim: Length of a latent.
        truncation: Factor on the standard normal latents, above 0: below 1 for images closer to the mean and less
            varied.

    Returns:
        float32, on the CPU.

    Raises:
        ValueError: A seed is not an integer in the range, or ``truncation`` is not positive and finite.
    """
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed <= MAX_SEED:
            raise ValueError(f"seed is {seed!r}; it must be a whole number from 0 to {MAX_SEED}")
    check_truncation(truncation)
    draw = torch.Generator()
    rows = [torch.randn(latent_dim, generator=draw.manual_seed(int(seed))) for seed in seeds]
    return truncation * torch.stack(rows) if rows else torch.empty(0, latent_dim)


def check_truncation(truncation: float) -> None:
    """Check the factor on latents.

    Raises:
        ValueError: It is not positive and finite.
    """
    if not 0 < truncation < float("inf"):
        raise ValueError(f"truncation is {truncation}; it must be above 0, usually between 0.5 and 1")


LabelSpec = Mapping[str, Any] | Sequence[Mapping[str, Any]]


def labels_from_seeds(
    generator: Generator, seeds: Sequence[int], labels: LabelSpec | None = None
) -> Float[Tensor, "seeds num_labels"] | None:
    """Sample label vectors for a conditional generator, one per seed.

    Args:
        generator: Provides the names of its labels, and their frequencies in its training data.
        seeds: Seeds of the latents; a requested label changes neither the latent nor any other label of its seed.
        labels: Requested labels, such as ``{"beard": True, "hair": "red"}``, for all seeds, or one mapping for each.

    Returns:
        float32 on the CPU; ``None`` for an unconditional generator.

    Raises:
        ValueError: There is no such label; or labels are requested of an unconditional generator.
    """
    names = generator.config.label_names
    if generator.label_frequencies is None:
        if labels:
            raise ValueError(f"labels are {labels!r}, but this generator is unconditional")
        return None
    return draw_labels(names, generator.label_frequencies, seeds, labels)


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Put a network into eval mode, and restore every module's mode afterward."""
    modes = {module: module.training for module in network.modules()}
    try:
        network.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def input_batches(
    network: nn.Module, inputs: Tensor, labels: Tensor | None, batch_size: int
) -> Iterator[tuple[Tensor, ...]]:
    """Split a network's inputs, and their labels if any, into batches on its device and in its dtype."""
    for start in range(0, len(inputs), batch_size):
        yield _input_batch(network, inputs, labels, slice(start, start + batch_size))


def _input_batch(network: nn.Module, inputs: Tensor, labels: Tensor | None, rows: slice) -> tuple[Tensor, ...]:
    given = [tensor for tensor in (inputs, labels) if tensor is not None]
    like = next(network.parameters(), inputs)
    return tuple(tensor[rows].to(like.device, like.dtype) for tensor in given)


def sample(
    generator: Generator,
    latents: Float[Tensor, "count latent_dim"],
    labels: Float[Tensor, "count num_labels"] | None = None,
    *,
    batch_size: int | None = None,
    progress: bool = True,
) -> Iterator[Float[Tensor, "batch channels size size"]]:
    """Turn latents into images, batch by batch.

    Args:
        generator: On any device, in any mode: run in eval mode, then restored.
        latents: On any device.
        labels: One per latent, for a conditional generator.
        batch_size: Images per batch; affects only memory and speed. By default the first image is generated alone, and
            its memory determines how many of the others fit into half of the free memory, at most `MAX_CPU_BATCH_SIZE`
            or `MAX_BATCH_SIZE`. If an accelerator runs out of memory, the batch size is halved.
        progress: Whether to show a progress bar on long jobs.

    Yields:
        Images in [-1, 1], float32, on the generator's device.

    Raises:
        ValueError: ``batch_size`` is not positive, the latents' length does not fit the generator, or the labels don't
            fit.
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


def _draw(generator: Generator, batch: tuple[Tensor, ...]) -> Float[Tensor, "batch channels size size"] | None:
    """Generate a batch, or return ``None`` if memory is too small for it; a single image must fit.

    A separate function, so that no tensor of a failed batch is still alive when a smaller one is generated.
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
    """Record the sizes of module outputs in forward passes inside this context [bytes each]."""
    sizes: list[int] = []

    def hook(module: nn.Module, args: tuple, output: Any) -> None:
        sizes.append(output.nbytes if isinstance(output, Tensor) else 0)

    with ExitStack() as stack:
        for name, module in network.named_modules():
            if "parametrizations" not in name:  # their outputs are weights, which don't grow with the batch
                stack.enter_context(module.register_forward_hook(hook))
        yield sizes


def fitting_batch_size(device: torch.device, bytes_per_image: int) -> int:
    """Return the number of images per batch that fit into half of a device's free memory, at least 1.

    Args:
        device: The device.
        bytes_per_image: Total size of the module outputs for one image. Most of it is freed during the pass: with every
            preset the peak was 0.3 to 0.7 of it. It is counted twice, for additional memory on other devices.
    """
    largest = MAX_CPU_BATCH_SIZE if device.type == "cpu" else MAX_BATCH_SIZE
    free = _free_memory(device)
    if free is None:  # unknown
        return MAX_CPU_BATCH_SIZE
    return max(1, min(largest, int(_SHARE_OF_MEMORY * free / (_FACTOR_OF_MEMORY * max(1, bytes_per_image)))))


def _free_memory(device: torch.device) -> int | None:
    """Return the free memory of a device [bytes]; ``None`` if unknown."""
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


def to_uint8(
    images: Float[Tensor, "batch channels height width"],
) -> UInt8[np.ndarray, "batch height width channels"]:
    """Convert images in [-1, 1] to 8 bits, rounded to nearest."""
    scaled = (images * 127.5 + 127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def generate_images(
    generator: Generator,
    latents: Float[Tensor, "count latent_dim"],
    labels: Float[Tensor, "count num_labels"] | None = None,
    *,
    batch_size: int | None = None,
    progress: bool = True,
) -> UInt8[np.ndarray, "count height width channels"]:
    """Turn latents into 8-bit RGB images; arguments and errors are those of `sample`."""
    size = generator.config.image_size
    batches = sample(generator, latents, labels, batch_size=batch_size, progress=progress)
    pictures = map(to_uint8, batches)
    return np.concatenate([np.empty((0, size, size, generator.config.image_channels), np.uint8), *pictures])


def label_grid(
    generator: Generator,
    seeds: Sequence[int],
    rows: Sequence[Mapping[str, Any]] | None = None,
    *,
    truncation: float = 1.0,
    scale: int = 1,
    batch_size: int | None = None,
) -> Image.Image:
    """Generate a grid that shows the effect of each label: one row per label value, one column per seed.

    Within a column everything except that label stays the same.

    Args:
        generator: A conditional generator.
        seeds: Seeds of the columns.
        rows: Requested labels of each row; by default each value of each label.
        truncation: See `latents_from_seeds`; the generator is not recalibrated.
        scale: Integer upscaling factor.
        batch_size: Images per batch; see `sample`.

    Raises:
        ValueError: The generator is unconditional, or see `latents_from_seeds`.
    """
    images, captions = label_images(generator, seeds, rows, truncation=truncation, batch_size=batch_size)
    return image_grid(enlarged(images, scale), len(seeds), captions)


def label_images(
    generator: Generator,
    seeds: Sequence[int],
    rows: Sequence[Mapping[str, Any]] | None = None,
    *,
    truncation: float = 1.0,
    batch_size: int | None = None,
) -> tuple[UInt8[np.ndarray, "count height width channels"], list[str]]:
    """Generate the images of `label_grid`, row by row, and the caption of each row; arguments are the same."""
    rows = label_values(generator.config.label_names) if rows is None else rows
    if not rows:
        raise ValueError("this generator is unconditional, so there are no labels to show row by row")
    latents = latents_from_seeds(seeds, generator.config.latent_dim, truncation).repeat(len(rows), 1)
    labels = torch.cat([_some(labels_from_seeds(generator, seeds, row)) for row in rows])
    captions = [", ".join(f"{name}: {_word(value)}" for name, value in row.items()) for row in rows]
    return generate_images(generator, latents, labels, batch_size=batch_size, progress=False), captions


def _some(labels: Tensor | None) -> Tensor:
    assert labels is not None
    return labels


def _word(value: Any) -> str:
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)
