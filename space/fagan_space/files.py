"""Files generated for the browser to fetch, in a private folder; a timer deletes old ones.

File names never derive from visitors' input, and the folder is removed when the process ends.
"""

import io
import os
import secrets
import shutil
import threading
import time
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from gradio.utils import get_upload_folder
from PIL import Image

from fagan_hf.data.decode import to_rgb
from fagan_hf.viz.grids import image_grid
from fagan_space.limits import CACHE_SECONDS

KEPT = "page"  # files of the page itself, such as its examples: read-only and never deleted
_PREFIX = "fagan-"
_SWEPT_EVERY = 30  # [seconds]


def storage() -> Path:
    """Return the folder that `fagan_space.storage` made."""
    return Path(get_upload_folder())


def keep(path: Path) -> Path:
    """Copy a file that the page shows, so that visitors never access the original."""
    folder = storage() / KEPT
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / path.name
    if not copy.exists():
        shutil.copyfile(path, copy)
        copy.chmod(0o444)
    return copy


def start_sweeping() -> None:
    """Start a thread that deletes old files periodically."""

    def run() -> None:
        while True:
            time.sleep(_SWEPT_EVERY)
            sweep()

    threading.Thread(target=run, daemon=True, name="sweep").start()


def sweep() -> None:
    """Delete files older than `CACHE_SECONDS`, and folders that have been empty that long."""
    oldest = time.time() - CACHE_SECONDS
    for parent, folders, names in os.walk(storage(), topdown=False):
        here = Path(parent)
        if here == storage() / KEPT:
            continue
        for path in (*(here / name for name in names), *(here / name for name in folders)):
            with suppress(OSError):  # already deleted, or a folder is not empty
                if path.lstat().st_mtime < oldest:
                    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def request_folder() -> Path:
    """Make a folder with an unguessable name for the files of one request."""
    folder = storage() / f"{_PREFIX}{secrets.token_hex(16)}"
    folder.mkdir(parents=True)
    return folder


def png(image: Image.Image) -> bytes:
    """Encode an image as PNG, as the command line does."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def picture_paths(seeds: Sequence[int]) -> list[Path]:
    """Make a folder for an image of each seed, and name their files as the command line does."""
    folder = request_folder()
    return [folder / f"seed-{seed:08d}.png" for seed in seeds]


def write_pictures(images: Sequence[Image.Image], seeds: Sequence[int]) -> list[Path]:
    """Write each image to a file."""
    paths = picture_paths(seeds)
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(png(image))
    return paths


def captioned(paths: Sequence[Path], seeds: Sequence[int]) -> list[tuple[str, str]]:
    """Pair files of images with their seeds as captions, for a gallery."""
    return [(str(path), f"seed {seed}") for path, seed in zip(paths, seeds, strict=True)]


def write_grid(images: Sequence[Image.Image]) -> Path:
    """Write all images as one grid."""
    path = request_folder() / "grid.png"
    path.write_bytes(png(image_grid(np.stack([np.asarray(to_rgb(image)) for image in images]))))
    return path


def write_archive(paths: Sequence[Path]) -> Path:
    """Pack files into a ZIP archive."""
    path = request_folder() / "pictures.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for each in paths:
            archive.write(each, each.name)
    return path
