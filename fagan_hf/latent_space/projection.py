"""Projection: find the latent of the generated image closest to a given one."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from fagan_hf.models import Discriminator, Generator
from fagan_hf.models.labels import check_label_range, check_labels
from fagan_hf.sampling.images import LabelSpec, eval_mode, labels_from_seeds, to_uint8

CANDIDATES = 128  # random latents from which the starts of a projection are selected

FEATURE_WEIGHT = 0.5  # weight of the discriminator's features; pixels have weight 1

PRIOR_WEIGHT = 0.01

_BATCH_SIZE = 64


@dataclass(frozen=True)
class Projection:
    """Result of `project`.

    Attributes:
        latents: ``[1, latent_dim]``, float32 on the CPU.
        labels: ``[1, num_labels]``, float32 on the CPU; ``None`` for an unconditional generator.
        reconstruction: The image generated from them, uint8 ``[height, width, 3]``.
        distance: Mean squared difference between image and reconstruction, for pixels in [-1, 1].
        history: Loss of the best start, initially and after each step.
    """

    latents: Float[Tensor, "1 latent_dim"]
    labels: Float[Tensor, "1 num_labels"] | None
    reconstruction: UInt8[np.ndarray, "height width channels"]
    distance: float
    history: tuple[float, ...]


def project(
    generator: Generator,
    image: Float[Tensor, "channels size size"] | Float[Tensor, "1 channels size size"],
    *,
    discriminator: Discriminator | None = None,
    labels: LabelSpec | Float[Tensor, "1 num_labels"] | None = None,
    steps: int = 200,
    starts: int = 2,
    seed: int = 0,
    progress: bool = True,
    on_step: Callable[[], object] | None = None,
    on_better: Callable[[UInt8[np.ndarray, "height width channels"]], object] | None = None,
) -> Projection:
    """Find the latent of the generated image closest to a given image.

    The best of many random latents are optimized by L-BFGS, and the best result is kept. The loss is the mean squared
    difference of pixels, plus that of the discriminator's feature maps, each relative to the mean square of the given
    image's, plus a weak regularization toward the typical length of latents.

    Args:
        generator: Run in eval mode, then restored.
        image: In [-1, 1], of the generator's `image_size`.
        discriminator: The generator's discriminator; restored afterward. Without it only pixels are compared.
        labels: Labels of the image, for a conditional generator: ``{"beard": True}``, or a label vector. Unspecified
            labels are sampled for each random latent, with their frequencies in the training data.
        steps: Maximum number of steps for each start; a step costs one image and its gradient. 0 returns the best
            random latent.
        starts: Number of latents to optimize, one after the other.
        seed: Seed of the random latents.
        progress: Whether to show a progress bar.
        on_step: Called before each evaluation of the loss; its exceptions end the projection and are propagated.
        on_better: Called with the reconstruction whenever it is better than all before; exceptions as above.

    Returns:
        The latent, and its distance.

    Raises:
        ValueError: The image has another shape or range, the labels don't fit, or a number is out of range.

    Reference:
        Zhu et al., arXiv:1609.03552, section 3.1; L-BFGS: Liu and Nocedal, Mathematical Programming 45, 1989.
    """
    image = _check_image(image, generator)
    for name, number, minimum in (("steps", steps, 0), ("starts", starts, 1)):
        if isinstance(number, bool) or not isinstance(number, int) or number < minimum:
            raise ValueError(f"{name} is {number!r}; it must be a whole number of at least {minimum}")
    latents, labels = _candidates(generator, max(CANDIDATES, starts), seed, labels)
    with ExitStack() as stack:
        for network in filter(None, (generator, discriminator)):
            stack.enter_context(eval_mode(network))
            stack.enter_context(_frozen(network))
        loss_of = _build_loss(generator, discriminator, image, on_step)
        rows = _best_rows(loss_of, latents, labels, starts)
        with tqdm(total=steps * starts, desc="Projecting", unit="step", disable=not progress) as bar:
            show = _only_better(on_better)
            descents = [_descend(loss_of, latents[row], _rows(labels, row), steps, bar, show) for row in rows]
        winner = min(range(starts), key=lambda start: min(descents[start][1]))
        best, history = descents[winner]
        labels = _rows(labels, rows[winner])
        with torch.no_grad():
            reconstruction = _draw(generator, best, labels)
    return Projection(
        latents=best.cpu(),
        labels=None if labels is None else labels.cpu(),
        reconstruction=to_uint8(reconstruction)[0],
        distance=(reconstruction - image).square().mean().item(),
        history=history,
    )


# From latents [count, latent_dim] and labels [count, num_labels] to losses [count] and images.
Loss = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]
Show = Callable[[float, Tensor], None]  # of a loss and its image


def _candidates(
    generator: Generator, count: int, seed: int, labels: LabelSpec | Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Sample random latents, and labels for each if the generator is conditional."""
    random = torch.Generator().manual_seed(seed)
    latents = torch.randn(count, generator.config.latent_dim, generator=random).to(generator.device)
    if isinstance(labels, Tensor):
        given = check_labels(labels, generator.config.label_names, 1)
        assert given is not None
        check_label_range(given)
        drawn = given.detach().expand(count, -1)
    else:
        drawn = labels_from_seeds(generator, range(count), labels)
    return latents, None if drawn is None else drawn.to(generator.device, torch.float32)


def _rows(labels: Tensor | None, rows: slice) -> Tensor | None:
    return None if labels is None else labels[rows]


def _check_image(image: Tensor, generator: Generator) -> Tensor:
    size = generator.config.image_size
    channels = generator.config.image_channels
    if image.shape not in ((channels, size, size), (1, channels, size, size)):
        raise ValueError(
            f"image is {list(image.shape)}; it must be [{channels}, {size}, {size}], or the same with a batch of 1, as "
            "generated"
        )
    low, high = image.min().item(), image.max().item()
    if not image.is_floating_point() or not (low >= -1.001 and high <= 1.001):  # also refuses NaN
        raise ValueError(
            f"image is {image.dtype} from {low:g} to {high:g}; it must be floating point in [-1, 1]: "
            "convert bytes with bytes / 127.5 - 1"
        )
    return image.detach().reshape(1, channels, size, size).to(generator.device, torch.float32)


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Disable gradients of a network's parameters, and restore them afterward."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _draw(generator: Generator, latents: Tensor, labels: Tensor | None) -> Tensor:
    return generator(latents.to(generator.dtype), None if labels is None else labels.to(generator.dtype)).float()


def _build_loss(
    generator: Generator, discriminator: Discriminator | None, image: Tensor, on_step: Callable[[], object] | None
) -> Loss:
    """Build the loss, with the features of the given image computed once."""
    with torch.no_grad():
        wanted = [] if discriminator is None else _features(discriminator, image)
    energies = [feature_map.square().mean().clamp(min=1e-8) for feature_map in wanted]

    def loss(latents: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        if on_step is not None:
            on_step()
        images = _draw(generator, latents, labels)
        total = _mean_square(images - image) + PRIOR_WEIGHT * (latents.square().mean(1) - 1).square()
        if discriminator is not None:
            features = _features(discriminator, images)
            for found, target, energy in zip(features, wanted, energies, strict=True):
                total = total + FEATURE_WEIGHT / len(wanted) * _mean_square(found - target) / energy
        return total, images

    return loss


def _only_better(on_better: Callable[[UInt8[np.ndarray, "height width channels"]], object] | None) -> Show:
    """Make a function that passes on images whose loss is lower than all before."""
    lowest = float("inf")

    def show(loss: float, images: Tensor) -> None:
        nonlocal lowest
        if on_better is not None and loss < lowest:
            lowest = loss
            on_better(to_uint8(images.detach())[0])

    return show


def _mean_square(differences: Tensor) -> Tensor:
    return differences.square().flatten(1).mean(1)


def _features(discriminator: Discriminator, images: Tensor) -> list[Tensor]:
    """Return the feature maps of a discriminator's layers, up to the first that needs labels.

    The last layer is left out: its logit does not measure similarity.
    """
    feature_map, found = images.to(discriminator.device, discriminator.dtype), []
    config = discriminator.config
    entrance = config.labels_at if config.num_labels and config.conditioning == "concatenation" else -1
    for spec, layer in zip(config.layers[:entrance], discriminator.layers, strict=False):
        if spec.labels:
            break
        feature_map = layer(feature_map)
        found.append(feature_map.float())
    return found


@torch.no_grad()
def _best_rows(loss_of: Loss, latents: Tensor, labels: Tensor | None, count: int) -> list[slice]:
    """Find the best of many random latents, in ascending order of loss."""
    batches = [slice(start, start + _BATCH_SIZE) for start in range(0, len(latents), _BATCH_SIZE)]
    losses = torch.cat([loss_of(latents[batch], _rows(labels, batch))[0] for batch in batches])
    return [slice(row, row + 1) for row in losses.argsort(stable=True)[:count].tolist()]


def _descend(
    loss_of: Loss, start: Tensor, labels: Tensor | None, steps: int, bar: tqdm, show: Show
) -> tuple[Tensor, tuple[float, ...]]:
    """Optimize a latent; return the best one found, and the losses of the start and of every step."""
    latents = start.clone().requires_grad_()
    best, losses = start, []
    # Adam needs about five times as many steps for the same loss: the problem is small and noise-free.
    lbfgs = torch.optim.LBFGS(
        [latents], max_iter=steps, max_eval=steps + 1, history_size=20, line_search_fn="strong_wolfe"
    )

    def evaluate() -> Tensor:
        nonlocal best
        (loss,), images = loss_of(latents, labels)
        [latents.grad] = torch.autograd.grad(loss, [latents])
        if loss.item() < min(losses, default=float("inf")):
            best = latents.detach().clone()
        losses.append(loss.item())
        show(loss.item(), images)
        bar.update(1 < len(losses) <= steps + 1)  # the last line search may take a few more
        return loss

    lbfgs.step(evaluate)
    bar.update(max(0, steps + 1 - len(losses)))  # converged early
    return best, tuple(losses)
