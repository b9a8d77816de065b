"""Differentiable augmentation: one policy for real and fake.

Color, translation and cutout are those of DiffAugment (Zhao et al., arXiv:2006.10738), rotation and scale follow ADA
(Karras et al., arXiv:2006.06676), as does applying each of them with a probability.

The strength of every augmentation is sampled first, for each image, on the CPU; applying it is a deterministic,
differentiable function of the images. So a step's randomness does not depend on device or number of processes.
"""

import math
from collections import ChainMap
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from fagan_hf.utils.own_names import check_name

TRANSLATION = 1 / 8  # maximum shift in each direction, as a fraction of the image size
CUTOUT = 1 / 2  # side of the erased square, as a fraction of the image size
ROTATION = math.radians(15)  # standard deviation of the angle [radians]
SCALE = 0.2  # standard deviation of the zoom factor's base-2 logarithm; ADA's
DRAWS = 3  # random numbers in [0, 1) per augmentation and image; one more where a probability decides


def color(images: Tensor, draws: Tensor) -> Tensor:
    """Change brightness by up to ±0.5, saturation by a factor of up to 2, contrast by a factor from 0.5 to 1.5.

    Alpha, if there is any, is unchanged.
    """
    if images.shape[1] == 4:
        return torch.cat([color(images[:, :3], draws), images[:, 3:]], dim=1)
    brightness, saturation, contrast = (draws[:, i, None, None, None] for i in range(3))
    images = images + (brightness - 0.5)
    gray = images.mean(1, keepdim=True)
    images = (images - gray) * (2 * saturation) + gray
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * (contrast + 0.5) + mean


def translation(images: Tensor, draws: Tensor) -> Tensor:
    """Shift by up to an eighth of the size in each direction, with zero padding."""
    size = images.shape[-1]
    reach = round(size * TRANSLATION)
    shifts = (draws[:, :2] * (2 * reach + 1)).long() - reach
    padded = functional.pad(images, (reach,) * 4)
    positions = torch.arange(size, device=images.device) + reach
    rows = (positions + shifts[:, :1])[:, None, :, None]
    columns = (positions + shifts[:, 1:])[:, None, None, :]
    batch = torch.arange(len(images), device=images.device)[:, None, None, None]
    channels = torch.arange(images.shape[1], device=images.device)[:, None, None]
    return padded[batch, channels, rows, columns]


def cutout(images: Tensor, draws: Tensor) -> Tensor:
    """Set a square of half the size to 0; its center may be anywhere, so it may extend beyond the image."""
    size = images.shape[-1]
    side = round(size * CUTOUT)
    positions = torch.arange(size, device=images.device)
    starts = (draws[:, :2] * (size + 1)).long() - side // 2
    is_inside = (positions >= starts[..., None]) & (positions < starts[..., None] + side)  # (B, 2, size)
    is_erased = is_inside[:, 0, :, None] & is_inside[:, 1, None, :]
    return images * ~is_erased[:, None]


def rotation(draws: Float[Tensor, "batch numbers"]) -> Float[Tensor, "batch 2 2"]:
    """Return rotations by normally distributed angles.

    Normal, because its characteristic function is positive everywhere: unlike a bounded uniform angle or quarter turns,
    it does not leak into the generated images at any probability (ADA, appendix C).
    """
    angle = ROTATION * _standard_normal(draws)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)


def scale(draws: Float[Tensor, "batch numbers"]) -> Float[Tensor, "batch 2 2"]:
    """Return isotropic zooms by log-normally distributed factors."""
    factor = torch.exp2(-SCALE * _standard_normal(draws))  # of the sampling grid: half of it is twice the size
    return factor[:, None, None] * torch.eye(2, dtype=draws.dtype, device=draws.device)


def _standard_normal(draws: Float[Tensor, "batch numbers"]) -> Float[Tensor, " batch"]:
    """Turn two uniform numbers per image into a standard normal one (Box-Muller)."""
    return (-2 * (1 - draws[:, 0]).log()).sqrt() * (2 * math.pi * draws[:, 1]).cos()


DISTORTIONS: dict[str, Callable[..., Tensor]] = {
    "color": color,
    "translation": translation,
    "cutout": cutout,
}
"""Functions of images and random numbers."""

GEOMETRY: dict[str, Callable[..., Tensor]] = {"rotation": rotation, "scale": scale}
"""Functions of random numbers to matrices, about the center of the image; all of a policy share one resampling."""

AUGMENTATIONS = ChainMap(DISTORTIONS, GEOMETRY)
"""All of them by name."""


def register_augmentation(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Register an augmentation of your own, for `augment` in recipes.

    It is tried on two small images first. Registered again under its name, as by rerunning a notebook cell, the same
    definition replaces the older one.

    Args:
        name: A word in lower case.
        function: A differentiable function of images ``[batch, channels, size, size]``, in [-1, 1] (whose alpha, if
            there are four channels, is the last), and of random numbers ``[batch, 3]`` in [0, 1), which returns images
            of the same shape and dtype. Each image must be augmented by its own numbers only, and all randomness must
            come from them.

    Raises:
        ValueError: The name is taken or not a word, or the function does something else; says what.
    """
    check_name("augmentation", name, function, AUGMENTATIONS)
    random = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 8, 8, generator=random, requires_grad=True)
    draws = torch.rand(2, DRAWS, generator=random)
    augmented, again, first = (function(images, draws), function(images, draws), function(images[:1], draws[:1]))
    if augmented.shape != images.shape or augmented.dtype != images.dtype:
        problem = f"returned {list(augmented.shape)} {augmented.dtype} for {list(images.shape)} {images.dtype}"
    elif not augmented.requires_grad:
        problem = "is not differentiable: a generator would learn nothing through it"
    elif not torch.equal(augmented, again):
        problem = "returned other images for the same numbers: take all randomness from its second argument"
    elif not torch.allclose(augmented[:1], first, atol=1e-5):
        problem = "augments an image differently if another one is in the batch"
    else:
        DISTORTIONS[name] = function
        return
    raise ValueError(f"augmentation {name!r} {problem}")


def draw_augmentation(
    random: torch.Generator, count: int, policy: Sequence[str], *, by_chance: bool = False
) -> Float[Tensor, "count distortions numbers"]:
    """Sample the augmentation parameters of each image in a batch.

    Args:
        random: CPU generator.
        count: Number of images.
        policy: Names of the augmentations.
        by_chance: Whether a probability decides for each augmentation of each image; its random numbers are sampled
            after the others, which are the same either way.

    Returns:
        In [0, 1): `DRAWS` numbers, and with `by_chance` one more.
    """
    strengths = torch.rand(count, len(policy), DRAWS, generator=random)
    if not by_chance:
        return strengths
    return torch.cat([strengths, torch.rand(count, len(policy), 1, generator=random)], dim=-1)


def augment(
    images: Float[Tensor, "batch channels height width"],
    draws: Float[Tensor, "batch distortions numbers"],
    policy: Sequence[str],
    probability: Float[Tensor, ""] | None = None,
) -> Float[Tensor, "batch channels height width"]:
    """Augment images individually, applying the augmentations of the policy in order.

    Geometric ones are composed to one resampling, in the place of the first: they commute, since all of them turn and
    zoom about the center.

    Args:
        images: In [-1, 1]; the result may exceed that range.
        draws: From `draw_augmentation`, on the images' device.
        policy: Names in `AUGMENTATIONS`; if empty, images are unchanged.
        probability: Probability of each augmentation of each image, in [0, 1], on the images' device; ``None`` applies
            all of them. An image that is spared is unchanged to the bit.
    """
    applied = None if probability is None else draws[..., DRAWS] < probability
    geometric = [index for index, name in enumerate(policy) if name in GEOMETRY]
    for index, name in enumerate(policy):
        if name in DISTORTIONS:
            is_applied = None if applied is None else applied[:, index]
            images = _where(is_applied, DISTORTIONS[name](images, draws[:, index]), images)
        elif index == geometric[0]:
            images = _move(images, draws, policy, geometric, applied)
    return images


def _where(is_applied: Bool[Tensor, " batch"] | None, augmented: Tensor, images: Tensor) -> Tensor:
    return augmented if is_applied is None else torch.where(is_applied[:, None, None, None], augmented, images)


def _move(
    images: Tensor,
    draws: Tensor,
    policy: Sequence[str],
    geometric: Sequence[int],
    applied: Bool[Tensor, "batch distortions"] | None,
) -> Tensor:
    """Turn and zoom images with one bicubic resampling, reflecting them at their borders.

    Bicubic, because a bilinear one blurs visibly at our resolutions: a generator learns no detail that it removes.
    """
    identity = torch.eye(2, dtype=images.dtype, device=images.device)
    matrix = identity.expand(len(images), 2, 2)
    for index in geometric:
        each = GEOMETRY[policy[index]](draws[:, index].to(images.dtype))
        matrix = matrix @ (each if applied is None else torch.where(applied[:, index, None, None], each, identity))
    affine = functional.pad(matrix, (0, 1))  # without a shift
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    is_moved = None if applied is None else torch.stack([applied[:, index] for index in geometric]).any(0)
    return _where(is_moved, moved, images)


def flip(
    images: Float[Tensor, "batch channels height width"], draws: Float[Tensor, " batch"]
) -> Float[Tensor, "batch channels height width"]:
    """Flip the images whose random number is below one half."""
    return torch.where((draws < 0.5)[:, None, None, None], images.flip(-1), images)
