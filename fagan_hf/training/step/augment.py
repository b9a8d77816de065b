"""Differentiable augmentation (DiffAugment, Zhao et al., arXiv:2006.10738): one policy for real and fake.

The strength of every augmentation is sampled first, for each image, on the CPU; applying it is a deterministic,
differentiable function of the images. So a step's randomness does not depend on device or number of processes.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

TRANSLATION = 1 / 8  # maximum shift in each direction, as a fraction of the image size
CUTOUT = 1 / 2  # side of the erased square, as a fraction of the image size
DRAWS = 3  # random numbers in [0, 1) per augmentation and image


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


AUGMENTATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "color": color,
    "translation": translation,
    "cutout": cutout,
}


def draw_augmentation(
    random: torch.Generator, count: int, policy: Sequence[str]
) -> Float[Tensor, "count distortions 3"]:
    """Sample the augmentation parameters of each image in a batch."""
    return torch.rand(count, len(policy), DRAWS, generator=random)


def augment(
    images: Float[Tensor, "batch channels height width"],
    draws: Float[Tensor, "batch distortions 3"],
    policy: Sequence[str],
) -> Float[Tensor, "batch channels height width"]:
    """Augment images individually, applying the augmentations of the policy in order.

    Args:
        images: In [-1, 1]; the result may exceed that range.
        draws: From `draw_augmentation`, on the images' device.
        policy: Keys of `AUGMENTATIONS`; if empty, images are unchanged.
    """
    for index, name in enumerate(policy):
        images = AUGMENTATIONS[name](images, draws[:, index])
    return images


def flip(
    images: Float[Tensor, "batch channels height width"], draws: Float[Tensor, " batch"]
) -> Float[Tensor, "batch channels height width"]:
    """Flip the images whose random number is below one half."""
    return torch.where((draws < 0.5)[:, None, None, None], images.flip(-1), images)
