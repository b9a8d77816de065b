"""Image files given on the command line."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

PICTURE_SUFFIXES = (".png", ".webp", ".jpg", ".jpeg")


def is_picture(path: Path) -> bool:
    """Return whether the suffix is one of a supported image format."""
    return path.suffix.lower() in PICTURE_SUFFIXES


def check_picture(path: Path | None) -> None:
    """Refuse an invalid ``--picture`` before anything is computed for it.

    Raises:
        ValueError: The suffix is not supported.
    """
    if path is not None and not is_picture(path):
        raise ValueError(f"--picture is {str(path)!r}; it must end in {', '.join(PICTURE_SUFFIXES)}")


def save_picture(image: "Image.Image", path: Path, *, make_folder: bool = False) -> None:
    """Write an image atomically, in the format of its suffix."""
    from fagan_hf.utils.files import replacing

    with replacing(path, make_folder=make_folder) as aside:  # the temporary name does not end in the suffix
        image.save(aside, format=path.suffix[1:].lower().replace("jpg", "jpeg"))
