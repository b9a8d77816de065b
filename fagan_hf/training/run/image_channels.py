"""Convert weights that read or write images to other channels: grayscale, RGB, RGBA with premultiplied alpha."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, by which Pillow converts to grayscale
_OPAQUE = 1.5  # before tanh: nearly opaque, yet with a gradient
_GRAY, _RGB, _RGBA = 1, 3, 4

# An image with values in [-1, 1] as RGB, and RGB as an image: a matrix and an offset. Transparent pixels are on white.
_TO_RGB = {
    _GRAY: (torch.ones(3, 1), torch.zeros(3)),
    _RGB: (torch.eye(3), torch.zeros(3)),
    _RGBA: (torch.cat([torch.eye(3), -torch.ones(3, 1)], dim=1), torch.ones(3)),
}
_FROM_RGB = {
    _GRAY: (torch.tensor([_LUMA]), torch.zeros(1)),
    _RGB: (torch.eye(3), torch.zeros(3)),
    _RGBA: (torch.eye(4, 3), torch.tensor([0.0, 0.0, 0.0, 1.0])),
}


def convert(known: Mapping[str, Tensor], source: nn.Module, wanted: nn.Module) -> dict[str, Tensor]:
    """Convert the convolutions of a layer that differ from the original's in nothing but the images' channels.

    A layer that reads images computes of a converted image what the original computes of the image, apart from the
    margin that it pads. One that writes images converts them before its activation; alpha is nearly opaque if it is
    new, and if it is dropped, colors are those on black.

    Args:
        known: The original's weights.
        source: The original: a discriminator's first, or a generator's last layer.
        wanted: The same layer for other images; it is not changed.

    Returns:
        Converted weights by name: none of convolutions that are parametrized, in groups, or differ in more; none of
        those without the bias that transparency needs, and of transposed ones that read images.
    """
    found: dict[str, Tensor] = {}
    originals = dict(source.named_modules())
    for name, new in wanted.named_modules():
        old: Any = originals.get(name)
        is_transposed = isinstance(new, nn.ConvTranspose2d)
        if not isinstance(new, nn.Conv2d | nn.ConvTranspose2d) or type(old) is not type(new):
            continue
        prefix = f"{name}." if name else ""
        weight, bias = (known.get(f"{prefix}{kind}") for kind in ("weight", "bias"))
        if weight is None or new.groups != 1 or old.groups != 1:
            continue
        reads, writes = ({getattr(old, way), getattr(new, way)} for way in ("in_channels", "out_channels"))
        if sorted(map(len, (reads, writes))) != [1, 2] or not (reads if len(reads) == 2 else writes) <= _TO_RGB.keys():
            continue
        weight = weight.transpose(0, 1) if is_transposed else weight
        if len(reads) == 2:
            if is_transposed:  # where taps overlap decides how often an offset counts
                continue
            matrix, offset = _conversion(new.in_channels, old.in_channels)
            matrix, offset = matrix.to(weight), torch.einsum("oikl,i->o", weight, offset.to(weight))
            weight = torch.einsum("oikl,ij->ojkl", weight, matrix)
        else:
            matrix, offset = (each.to(weight) for each in _written(old.out_channels, new.out_channels))
            weight = torch.einsum("po,oikl->pikl", matrix, weight)
            bias = None if bias is None else matrix @ bias
        if bias is None and offset.any():
            continue
        found[f"{prefix}weight"] = (weight.transpose(0, 1) if is_transposed else weight).contiguous()
        if bias is not None:
            found[f"{prefix}bias"] = bias + offset
    return found


def _conversion(old: int, new: int) -> tuple[Tensor, Tensor]:
    """Return the matrix ``[new, old]`` and the offset that convert an image."""
    (to_rgb, shift), (from_rgb, constant) = _TO_RGB[old], _FROM_RGB[new]
    return from_rgb @ to_rgb, from_rgb @ shift + constant


def _written(old: int, new: int) -> tuple[Tensor, Tensor]:
    """Return the matrix and the offset that convert an image before tanh."""
    to_rgb = torch.eye(3, 4) if old == _RGBA else _TO_RGB[old][0]
    return _FROM_RGB[new][0] @ to_rgb, _FROM_RGB[new][1] * _OPAQUE
