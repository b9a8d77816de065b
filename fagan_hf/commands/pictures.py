"""Picture files that people name on the command line."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

PICTURE_SUFFIXES = (".png", ".webp", ".jpg", ".jpeg")


def is_picture(path: Path) -> bool:
    """Can a picture be written under that name?"""
    return path.suffix.lower() in PICTURE_SUFFIXES


def check_picture(path: Path | None) -> None:
    """Refuse what ``--picture`` names, before anything is computed for it.

    Raises:
        ValueError: It has another suffix.
    """
    if path is not None and not is_picture(path):
        raise ValueError(f"--picture is {str(path)!r}; it must end in {', '.join(PICTURE_SUFFIXES)}")


def save_picture(image: "Image.Image", path: Path, *, make_folder: bool = False) -> None:
    """Write a picture, complete or not at all, in the format that its suffix names."""
    from fagan_hf.utils.files import replacing

    with replacing(path, make_folder=make_folder) as aside:  # whose name does not end in the suffix
        image.save(aside, format=path.suffix[1:].lower().replace("jpg", "jpeg"))
