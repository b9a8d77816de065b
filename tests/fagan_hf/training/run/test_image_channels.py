"""Layers next to the image, converted to other image channels."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fagan_hf.training.run.image_channels import convert


def images(channels):
    """Random images in [-1, 1]; of RGBA, colors are premultiplied."""
    values = torch.rand(2, channels, 12, 12, generator=torch.Generator().manual_seed(0))
    return 2 * (values if channels < 4 else torch.cat([values[:, :3] * values[:, 3:], values[:, 3:]], dim=1)) - 1


def as_channels(image, channels):
    """Convert images by the definitions: over white, BT.601, opaque."""
    unit = (image + 1) / 2
    if image.shape[1] == 1:
        unit = unit.expand(-1, 3, -1, -1)
    elif image.shape[1] == 4:
        unit = unit[:, :3] + 1 - unit[:, 3:]
    if channels == 1:
        unit = (unit * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(dim=1, keepdim=True)
    elif channels == 4:
        unit = torch.cat([unit, torch.ones_like(unit[:, :1])], dim=1)
    return 2 * unit - 1


PAIRS = [(old, new) for old in (1, 3, 4) for new in (1, 3, 4) if old != new]


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_a_layer_that_reads_images_computes_what_the_original_does(old, new):
    original, layer = (nn.Conv2d(channels, 5, 4, stride=2, padding=1) for channels in (old, new))
    layer.load_state_dict(convert(original.state_dict(), original, layer))
    image = images(new)
    found, expected = layer(image), original(as_channels(image, old))
    inside = (..., slice(1, -1), slice(1, -1))
    torch.testing.assert_close(found[inside], expected[inside], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("old", "new"), PAIRS)
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_layer_that_writes_images_converts_them(old, new, kind):
    original, layer = kind(5, old, 3), kind(5, new, 3)
    layer.load_state_dict(convert(original.state_dict(), original, layer))
    features = torch.rand(2, 5, 8, 8)
    found, before = layer(features), original(features)
    color = before[:, :3] if old == 4 else before
    expected = as_channels(color, new)
    colors = min(new, 3)
    torch.testing.assert_close(found[:, :colors], expected[:, :colors], atol=1e-5, rtol=0)
    if new == 4:
        assert torch.tanh(found[:, 3]).min() > 0.9


def test_gray_is_the_gray_of_pillow():
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(picture).convert("L"))
    found = as_channels(torch.from_numpy(picture).movedim(2, 0)[None] / 127.5 - 1, 1)
    np.testing.assert_allclose((found[0, 0] + 1) * 127.5, expected, atol=1)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (nn.Conv2d(3, 8, 3), nn.Conv2d(1, 9, 3)),
        (nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)),
        (nn.Conv2d(3, 8, 3), nn.Conv2d(2, 8, 3)),
        (nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(1, 6, 3)),
        (nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(1, 8, 3)),
        (nn.ConvTranspose2d(3, 8, 3), nn.ConvTranspose2d(1, 8, 3)),
        (nn.Conv2d(3, 8, 3), nn.Linear(1, 8)),
    ],
)
def test_what_differs_in_more_is_left(old, new):
    assert convert(old.state_dict(), old, new) == {}


def test_without_bias_there_is_no_transparency():
    gray, color, transparent = (nn.Conv2d(channels, 8, 3, bias=False) for channels in (1, 3, 4))
    assert convert(color.state_dict(), color, gray).keys() == {"weight"}
    assert convert(color.state_dict(), color, transparent) == {}
