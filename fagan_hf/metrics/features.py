"""Feature extractors, by name or from Python."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from fagan_hf.utils.suggest import suggest

BATCH_SIZE = 64


@dataclass(frozen=True)
class FeatureExtractor:
    """A feature extractor for images.

    Attributes:
        name: Part of every metric's name, such as ``fd_effnetlite0_2048``: letters and digits.
        module: Maps 8-bit images ``[batch, 3, size, size]``, from 0 to 255, to ``[batch, features]``.
        description: Description for a card.
        num_images: Usual number of images for its metrics.
    """

    name: str
    module: nn.Module
    description: str
    num_images: int = 2048

    def __post_init__(self):
        if not (self.name.isascii() and self.name.isalnum()):
            raise ValueError(f"name is {self.name!r}; as part of metric names it may have letters and digits only")

    @property
    def identity(self) -> str:
        """A hash of the network's layers and weights, but not of the code that uses them."""
        digest = hashlib.sha256(f"{self.name} {self.module}".encode())
        for key, tensor in sorted(self.module.state_dict().items()):
            numbers = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)  # NumPy has no bfloat16
            digest.update(key.encode() + numbers.numpy().tobytes())
        return digest.hexdigest()

    @torch.inference_mode()
    def __call__(
        self,
        images: UInt8[np.ndarray, "images 3 size size"],
        *,
        device: torch.device | str = "cpu",
        batch_size: int = BATCH_SIZE,
    ) -> Float[Tensor, "images features"]:
        """Return the features of images, float32 on the CPU.

        Args:
            images: May be memory-mapped; they are copied batch by batch.
            device: Device of the computation.
            batch_size: Images per batch.

        Raises:
            ValueError: The images are not 8-bit, or the module does not return one row of features for each.
        """
        if images.dtype != np.uint8:
            raise ValueError(f"images are {images.dtype}; they must be uint8, both real and generated ones")
        module = self.module.to(device).eval()
        rows: list[Tensor] = []
        for start in range(0, len(images), batch_size):
            batch = torch.from_numpy(np.array(images[start : start + batch_size]))
            found = module(batch.to(device))
            if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(batch):
                shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
                raise ValueError(f"features {self.name} returned {shape}; they must be [{len(batch)}, features]")
            rows.append(found.float().cpu())
        return torch.cat(rows) if rows else torch.empty(0, 0)


def _effnetlite0() -> FeatureExtractor:
    from fagan_hf.metrics.effnetlite0 import RESOLUTION, EfficientNetLite0

    description = (
        f"EfficientNet-Lite0 on ImageNet, the 1,280 numbers before the classifier, at {RESOLUTION}x{RESOLUTION}"
    )
    return FeatureExtractor("effnetlite0", EfficientNetLite0(), description)


class _Inception(nn.Module):
    """torch-fidelity's Inception-v3, which does its own resizing, like the published protocol."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 2048"]:
        """Return the 2,048 numbers before the classifier."""
        [features] = self.network(images)
        return features


def _inception() -> FeatureExtractor:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise ImportError(
            "features inception need torch-fidelity: pip install 'fagan-hf[inception]'. "
            "effnetlite0 needs only 'fagan-hf[metrics]', and no download"
        ) from error
    try:
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    except (URLError, OSError) as error:
        raise OSError(
            f"the weights of features inception could not be downloaded: {error}. torch-fidelity downloads them once, "
            "to torch's hub folder ($TORCH_HOME); effnetlite0 works offline"
        ) from error
    description = (
        "Inception-v3 of the published FID protocol (TensorFlow's weights of 2015, by torch-fidelity), at 299x299"
    )
    return FeatureExtractor("inception", _Inception(network), description, num_images=50_000)


FEATURES: dict[str, Callable[[], FeatureExtractor]] = {"effnetlite0": _effnetlite0, "inception": _inception}
"""Features by name."""


def build_features(features: Any) -> FeatureExtractor:
    """Build a feature extractor by name; a `FeatureExtractor` is returned unchanged.

    Args:
        features: A key of `FEATURES`, or a `FeatureExtractor`.

    Raises:
        ValueError: There are no features of that name.
        ImportError: A package is missing; says what to install.
        OSError: Weights can't be downloaded; suggests an alternative.
    """
    if isinstance(features, FeatureExtractor):
        return features
    if features not in FEATURES:
        raise ValueError(f"unknown features {features!r}; {suggest(str(features), FEATURES)}")
    return FEATURES[features]()
