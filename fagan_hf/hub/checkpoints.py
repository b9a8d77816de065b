"""The past of a run folder: its checkpoints, light snapshots of the averaged generator, and which of them is best."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from fagan_hf.hub import client
from fagan_hf.hub.repository import (
    AVERAGED,
    BEST,
    CHECKPOINTS,
    DISCRIMINATOR,
    EVALUATIONS,
    FACTS,
    GENERATOR,
    MANIFEST,
    SNAPSHOTS,
    checkpoints_in,
    images_of,
    read_json,
)
from fagan_hf.utils.files import sha256

_FILES = {GENERATOR: f"{AVERAGED}.safetensors", DISCRIMINATOR: f"{DISCRIMINATOR}.safetensors"}  # in a checkpoint


def snapshots_in(folder: Path) -> dict[int, Path]:
    """Return the snapshots of a run folder by images seen, oldest first; none if there is no such folder."""
    found = [path for path in (folder / SNAPSHOTS).glob("*") if re.fullmatch(r"images-\d+\.safetensors", path.name)]
    return {images_of(path): path for path in sorted(found, key=images_of)}


def saved_weights(folder: Path, network: str) -> dict[int, Path]:
    """Find all weights of a network that a run folder has kept from its past.

    Args:
        folder: The run folder.
        network: ``"generator"``, which is the averaged one, or ``"discriminator"``.

    Returns:
        Files of weights by images seen, oldest first: of checkpoints, and of snapshots, which hold the generator only.
    """
    found = snapshots_in(folder) if network == GENERATOR else {}
    files = [path / _FILES[network] for path in checkpoints_in(folder / CHECKPOINTS)]
    found |= {images_of(path.parent): path for path in files if path.is_file()}
    return dict(sorted(found.items()))


def weights_at(name: str, network: str, images: int) -> Path:
    """Find the weights of a network after a number of images, in a checkpoint or else in a snapshot.

    Args:
        name: A local run folder.
        network: ``"generator"``, which is the averaged one, or ``"discriminator"``.
        images: Images seen.

    Raises:
        FileNotFoundError: There are none; lists those that exist, and the nearest.
        ValueError: It is not a local folder, or the file does not match the checkpoint's manifest.
    """
    folder = _local_run(name, images)
    found = saved_weights(folder, network)
    if images not in found:
        raise FileNotFoundError(_missing(folder, images, found))
    path = found[images]
    manifest = path.parent / MANIFEST
    if manifest.is_file() and json.loads(manifest.read_text(encoding="utf-8")).get(path.name) != sha256(path):
        raise ValueError(f"{path} is corrupt: it does not match its hash in {MANIFEST}; load another checkpoint")
    return path


def checkpoint_at(name: str, images: int) -> Path:
    """Find the folder of a full checkpoint, from which training can resume.

    Raises:
        FileNotFoundError: There is none; lists those that exist, and the nearest.
        ValueError: It is not a local folder.
    """
    folder = _local_run(name, images)
    found = {images_of(path): path for path in checkpoints_in(folder / CHECKPOINTS)}
    if images not in found:
        only = " A snapshot of these images holds the generator alone." if images in snapshots_in(folder) else ""
        raise FileNotFoundError(f"{_missing(folder, images, found)}{only}")
    return found[images]


def _local_run(name: str, images: object) -> Path:
    """Return the local folder of a run whose past is asked for.

    Raises:
        ValueError: It is not a local folder, or the checkpoint is not a number.
    """
    if not isinstance(images, int) or isinstance(images, bool):
        raise ValueError(f"checkpoint is {images!r}; it must be the number of images seen, such as 81920")
    folder = client.find_local(name)
    if folder is None or not folder.is_dir():
        raise ValueError(
            f"checkpoint is {images}, but {name!r} is not a local folder. Only run folders have checkpoints; a "
            "repository on the Hub holds one model: leave checkpoint out, or choose a revision"
        )
    return folder


def _missing(folder: Path, images: int, found: Iterable[int]) -> str:
    """Say which checkpoint is missing, which exist, and which of them is nearest."""
    found = sorted(found)
    if not found:
        return f"{folder} has no checkpoint at {images} images, and no other one"
    nearest = min(found, key=lambda each: abs(each - images))
    listing = ", ".join(map(str, found))
    return f"{folder} has no checkpoint at {images} images; there are {listing}. The nearest is {nearest}."


def best_images(folder: Path) -> set[int]:
    """Return after how many images a run was best: when it last measured itself, and when it was measured as a whole.

    Raises:
        ValueError: A file with measurements is not valid JSON.
    """
    found = [
        read_json(folder / EVALUATIONS).get("best"),
        read_json(folder / BEST / FACTS).get("training", {}).get("images_seen"),
    ]
    return {each for each in found if each is not None}


def not_measured(folder: Path) -> list[int]:
    """Return after how many images there are weights that were saved after a run was measured as a whole.

    Raises:
        ValueError: The file with measurements is not valid JSON.
    """
    measured = [each["images"] for each in read_json(folder / EVALUATIONS).get("checkpoints", [])]
    return [images for images in saved_weights(folder, GENERATOR) if images > max(measured, default=images)]


def best_model(folder: Path) -> tuple[Path, int | None]:
    """Find the best model of a run that has been measured.

    Returns:
        A folder, and the checkpoint in it; ``None`` for the folder's own model.

    Raises:
        FileNotFoundError: The run has not been measured; says how.
        ValueError: The file with measurements is not valid JSON.
    """
    measured = read_json(folder / EVALUATIONS).get("best")
    if measured is not None:
        return folder, measured
    if (folder / BEST / GENERATOR).is_dir():
        return folder / BEST, None
    raise FileNotFoundError(
        f"{folder} has not been measured, so its best checkpoint is unknown: run `fagan-hf evaluate {folder} --all`"
    )
