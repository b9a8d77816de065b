"""From a given image to the latent of the generated image closest to it."""

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

CANDIDATES = 128  # random latents among which the starts of a projection are looked for

FEATURE_WEIGHT = 0.5  # of the discriminator's features, beside 1 for the pixels

PRIOR_WEIGHT = 0.01

_BATCH_SIZE = 64


@dataclass(frozen=True)
class Projection:
    """What `project` found.

    Attributes:
        latents: ``[1, latent_dim]``, float32 on the CPU.
        labels: ``[1, num_labels]`` that they belong to, float32 on the CPU; ``None`` for an unconditional generator.
        reconstruction: What the generator draws of them, uint8 ``[height, width, 3]``.
        distance: Mean squared difference between the picture and its reconstruction, for pixels in [-1, 1].
        history: Loss of the start that won, and of its every step.
    """

    latents: Float[Tensor, "1 latent_dim"]
    labels: Float[Tensor, "1 num_labels"] | None
    reconstruction: UInt8[np.ndarray, "height width 3"]
    distance: float
    history: tuple[float, ...]


def project(
    generator: Generator,
    image: Float[Tensor, "3 size size"] | Float[Tensor, "1 3 size size"],
    *,
    discriminator: Discriminator | None = None,
    labels: LabelSpec | Float[Tensor, "1 num_labels"] | None = None,
    steps: int = 200,
    starts: int = 2,
    seed: int = 0,
    progress: bool = True,
    on_step: Callable[[], object] | None = None,
) -> Projection:
    """Find the latent that a generator draws a given picture of, as nearly as it can.

    The best of many random latents are moved by L-BFGS, and the best that any of them came by is kept. The loss is
    the mean squared difference of pixels, plus that of the discriminator's feature maps, each relative to the mean
    square of the given picture's, plus a weak pull toward the length that the generator's latents have.

    Args:
        generator: Works in eval mode and comes back as it was.
        image: In [-1, 1], of the generator's `image_size`.
        discriminator: The generator's own; comes back as it was. Without it only pixels are compared.
        labels: What the picture shows, for a conditional generator: ``{"beard": True}``, or a label vector. What is
            left open is drawn for each random latent, as often as it holds in the training data.
        steps: At the most, of each start; one step costs a picture and its gradient. 0 gives the best random latent.
        starts: Latents that are moved, one after the other.
        seed: Decides which random latents are tried.
        progress: Show a bar?
        on_step: Called before each evaluation of the loss; what it raises ends the projection and is passed on.

    Returns:
        The latent, and how near it came.

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
            descents = [_descend(loss_of, latents[row], _rows(labels, row), steps, bar) for row in rows]
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


Loss = Callable[[Tensor, Tensor | None], Tensor]  # latents [count, latent_dim], labels [count, num_labels] -> [count]


def _candidates(
    generator: Generator, count: int, seed: int, labels: LabelSpec | Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Draw random latents, and labels for each where the generator takes them."""
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
    if image.shape not in ((3, size, size), (1, 3, size, size)):
        raise ValueError(
            f"image is {list(image.shape)}; it must be [3, {size}, {size}] or [1, 3, {size}, {size}], as generated"
        )
    low, high = image.min().item(), image.max().item()
    if not image.is_floating_point() or not (low >= -1.001 and high <= 1.001):  # a NaN is refused too
        raise ValueError(
            f"image is {image.dtype} from {low:g} to {high:g}; it must be floating point in [-1, 1]: "
            "bytes / 127.5 - 1 makes it so"
        )
    return image.detach().reshape(1, 3, size, size).to(generator.device, torch.float32)


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Spare a network's parameters their gradients; afterward each requires one as before."""
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
    """Make what is minimized, with the features of the given picture seen once."""
    with torch.no_grad():
        wanted = [] if discriminator is None else _features(discriminator, image)
    energies = [feature_map.square().mean().clamp(min=1e-8) for feature_map in wanted]

    def loss(latents: Tensor, labels: Tensor | None) -> Tensor:
        if on_step is not None:
            on_step()
        images = _draw(generator, latents, labels)
        total = _mean_square(images - image) + PRIOR_WEIGHT * (latents.square().mean(1) - 1).square()
        if discriminator is not None:
            features = _features(discriminator, images)
            for found, target, energy in zip(features, wanted, energies, strict=True):
                total = total + FEATURE_WEIGHT / len(wanted) * _mean_square(found - target) / energy
        return total

    return loss


def _mean_square(differences: Tensor) -> Tensor:
    return differences.square().flatten(1).mean(1)


def _features(discriminator: Discriminator, images: Tensor) -> list[Tensor]:
    """Give what a discriminator's layers make of images, as far as they ask for no labels.

    Not the last layer, whose logit says nothing about likeness.
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
    """Find the best of many random latents, the very best first."""
    batches = [slice(start, start + _BATCH_SIZE) for start in range(0, len(latents), _BATCH_SIZE)]
    losses = torch.cat([loss_of(latents[batch], _rows(labels, batch)) for batch in batches])
    return [slice(row, row + 1) for row in losses.argsort(stable=True)[:count].tolist()]


def _descend(
    loss_of: Loss, start: Tensor, labels: Tensor | None, steps: int, bar: tqdm
) -> tuple[Tensor, tuple[float, ...]]:
    """Move a latent downhill, and give the best that was come by, and the loss of the start and of every step."""
    latents = start.clone().requires_grad_()
    best, losses = start, []
    # Adam takes about five times as many steps to come as near: there are few unknowns here, and no noise.
    lbfgs = torch.optim.LBFGS(
        [latents], max_iter=steps, max_eval=steps + 1, history_size=20, line_search_fn="strong_wolfe"
    )

    def evaluate() -> Tensor:
        nonlocal best
        loss = loss_of(latents, labels).sum()
        [latents.grad] = torch.autograd.grad(loss, [latents])
        if loss.item() < min(losses, default=float("inf")):
            best = latents.detach().clone()
        losses.append(loss.item())
        bar.update(1 < len(losses) <= steps + 1)  # the last line search may take a few more
        return loss

    lbfgs.step(evaluate)
    bar.update(max(0, steps + 1 - len(losses)))  # nothing more to gain
    return best, tuple(losses)
