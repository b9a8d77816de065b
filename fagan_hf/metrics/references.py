"""Features of real images, computed once and cached on disk."""

import hashlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from fagan_hf.data.cache import Images, cache_root, only_one_process
from fagan_hf.metrics.features import FeatureExtractor
from fagan_hf.utils.files import save_tensors
from fagan_hf.viz.colors import rgb_planes

MAX_IMAGES = 50_000
"""Number of images used from a larger dataset, always the same ones."""
_SEED = 0
_PROBED, _DEVIATION = 4, 0.01  # images recomputed to validate a cache, and the allowed deviation on other hardware
_AT_A_TIME = 1024
_FEATURES = "features"


@dataclass(frozen=True)
class RealFeatures:
    """Features of real images in a random order that is fixed for a dataset.

    Attributes:
        features: Features of all images, or of `MAX_IMAGES` of them.
        rows: Index of each image in the dataset.
        total: Images in the dataset.
        floors: Comparisons of real images with other real ones, by number of images; see `fagan_hf.metrics.evaluate`.
    """

    features: Float[Tensor, "images features"]
    rows: Int[np.ndarray, " images"]
    total: int
    floors: dict[int, Any] = field(default_factory=dict, repr=False)


def chosen_rows(total: int) -> Int[np.ndarray, " images"]:
    """Shuffle the indices of a dataset's images, always in the same way, and keep at most `MAX_IMAGES`."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(_SEED))[:MAX_IMAGES].numpy()


def real_features(
    images: Images,
    extractor: FeatureExtractor,
    *,
    device: torch.device | str = "cpu",
    cache_dir: Path | None = None,
    progress: bool = True,
) -> RealFeatures:
    """Compute the features of a dataset's images, or read them from the cache of an earlier call.

    The cache is named after the images' pixels, which include crop and size, and the network's layers and weights. The
    features of the first images are recomputed for validation, because the code of a network may have changed. Damaged
    or outdated features are recomputed.

    Args:
        images: Returned by `fagan_hf.data.prepare.prepare_images`.
        extractor: The feature extractor.
        device: Device of the computation.
        cache_dir: Folder of caches; default ``$FAGAN_CACHE``, else ``~/.cache/fagan_hf``.
        progress: Whether to show a progress bar.
    """
    rows = chosen_rows(len(images))
    identity = f"{images.content} {extractor.identity} {len(rows)} {_SEED}"
    name = f"features-{extractor.name}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    path = cache_root(cache_dir) / f"{name}.safetensors"

    def read() -> Tensor | None:
        kept = _read(path, identity, len(rows), tell=progress)
        return kept if kept is not None and agrees(kept) else None

    def agrees(kept: Tensor) -> bool:
        found = extractor(rgb_planes(images.array[rows[:_PROBED]]), device=device)
        few = kept[:_PROBED]
        return found.shape == few.shape and bool((found - few).norm() <= _DEVIATION * few.norm())

    features = read()
    if features is None:
        with only_one_process(path, tell=progress):
            features = read()
            if features is None:
                features = _look(images, extractor, rows, device, progress)
                save_tensors({_FEATURES: features}, path, {"identity": identity})
    return RealFeatures(features, rows, len(images))


def _look(
    images: Images,
    extractor: FeatureExtractor,
    rows: Int[np.ndarray, " rows"],
    device: torch.device | str,
    progress: bool,
) -> Tensor:
    found: list[Tensor] = []
    with tqdm(total=len(rows), desc="Features of real images", unit="img", disable=not progress) as bar:
        for start in range(0, len(rows), _AT_A_TIME):
            part = rows[start : start + _AT_A_TIME]
            found.append(extractor(rgb_planes(images.array[part]), device=device))
            bar.update(len(part))
    return torch.cat(found)


def _read(path: Path, identity: str, count: int, *, tell: bool) -> Tensor | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            features = file.get_tensor(_FEATURES)
            is_right = (file.metadata() or {}).get("identity") == identity and len(features) == count
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
        if tell:
            print(f"{path} is damaged ({error}); recomputing the features.", file=sys.stderr)
        return None
    return features if is_right and features.isfinite().all() else None
