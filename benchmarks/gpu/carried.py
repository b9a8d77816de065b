"""What a machine without a network needs to train: images in one archive per resolution, and pure-Python packages."""

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

WHEELS = "wheels"
PACKAGES = {"jsonargparse": "jsonargparse", "docstring-parser": "docstring_parser"}
"""Packages to carry and the modules to import: what `fagan_hf.train` needs besides torch, accelerate and Matplotlib."""
PEER = {"attn-gan-pytorch": "attn_gan_pytorch"}
"""The original, which is only compared with."""


def archive_of(folder: Path, resolution: int) -> Path:
    """Return the path of the archive of avatars at a resolution [pixels]."""
    return folder / f"avatars-{resolution}.zip"


def use_wheels(folder: Path) -> None:
    """Make the carried packages importable; installed ones take precedence.

    Wheels of pure-Python packages are importable as they are.
    """
    for wheel in sorted((folder / WHEELS).glob("*-none-any.whl")):
        if str(wheel) not in sys.path:
            sys.path.append(str(wheel))


def check(folder: Path, resolutions: Iterable[int]) -> None:
    """Refuse to train without the images or packages.

    Raises:
        FileNotFoundError: Something is missing; says what, and the command that makes it.
    """
    use_wheels(folder)
    archives = [archive_of(folder, resolution) for resolution in resolutions]
    missing = [path.name for path in archives if not path.is_file()]
    missing += [f"{WHEELS}/{name}-*.whl" for name, module in PACKAGES.items() if not importlib.util.find_spec(module)]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)}. On a machine with a network run "
            f"`python -m benchmarks.gpu prepare --out {folder}`, and copy the folder here; or leave out training "
            "with --only check or --only speed"
        )
