"""Files that a request leaves for the browser to fetch, in the folder that the server clears by their age."""

import io
import shutil
import tempfile
import time
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from gradio.utils import get_upload_folder
from PIL import Image

from fagan_hf.grids import image_grid
from fagan_space.limits import CACHE_SECONDS

_PREFIX = "fagan-"


def request_folder() -> Path:
    """Make a folder of its own for the files of one request, and clear away those that nobody fetches any more.

    Gradio deletes by age what components show, but leaves folders, and what endpoints give.
    """
    cache = Path(get_upload_folder())
    cache.mkdir(parents=True, exist_ok=True)
    for folder in cache.glob(f"{_PREFIX}*"):
        with suppress(FileNotFoundError):  # another request was quicker
            if time.time() - folder.stat().st_mtime > CACHE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=cache))


def png(image: Image.Image) -> bytes:
    """Write a picture as the command line does."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def write_pictures(images: Sequence[Image.Image], seeds: Sequence[int]) -> list[Path]:
    """Write each picture into a file that is called as the command line calls it."""
    folder = request_folder()
    paths = [folder / f"seed-{seed:08d}.png" for seed in seeds]
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(png(image))
    return paths


def captioned(paths: Sequence[Path], seeds: Sequence[int]) -> list[tuple[str, str]]:
    """Give files of `write_pictures` as a gallery shows them, each with its seed."""
    return [(str(path), f"seed {seed}") for path, seed in zip(paths, seeds, strict=True)]


def write_grid(images: Sequence[Image.Image]) -> Path:
    """Write all pictures into one."""
    path = request_folder() / "grid.png"
    path.write_bytes(png(image_grid(np.stack([np.asarray(image) for image in images]))))
    return path


def write_archive(paths: Sequence[Path]) -> Path:
    """Pack files into one."""
    path = request_folder() / "pictures.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for each in paths:
            archive.write(each, each.name)
    return path
