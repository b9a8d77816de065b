"""Prepare a folder for `python -m benchmarks.gpu --carried FOLDER` on a machine without a network.

    python -m benchmarks.gpu prepare --out carried

Draws the avatars that the training pieces need, into lossless archives that only Pillow is needed to read, and
downloads the pure-Python packages that a machine with torch, accelerate and Matplotlib lacks. What is there is kept.
"""

import argparse
import io
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from benchmarks.gpu.carried import PACKAGES, PEER, WHEELS, archive_of
from benchmarks.gpu.training import RUNS
from fagan_hf.data.avatars import attribution
from fagan_hf.data.image_source import ImageSource
from fagan_hf.data.prepare import prepare_images
from fagan_hf.utils.files import replacing

CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"
NUM_AVATARS = 4096
ATTRIBUTION = "ATTRIBUTION.txt"


def write_archive(folder: Path, resolution: int, num_avatars: int) -> Path:
    """Write avatars as lossless WebP: a tenth of a cache's size, and independent of the versions of packages."""
    images = prepare_images(ImageSource("avatars", resolution=resolution, num_avatars=num_avatars))
    path = archive_of(folder, resolution)
    with replacing(path) as aside, zipfile.ZipFile(aside, "w", zipfile.ZIP_STORED) as archive:
        for index, pixels in enumerate(images.array):
            packed = io.BytesIO()
            Image.fromarray(pixels.transpose(1, 2, 0)).save(packed, "WEBP", lossless=True, quality=80, method=4)
            archive.writestr(f"{index:05d}.webp", packed.getvalue())
    return path


def download_wheels(folder: Path) -> None:
    """Download the packages to carry, in the versions that the tests run with; one is only published as source.

    Raises:
        CalledProcessError: pip failed, and has said why.
        ValueError: A package is not pure Python, so its wheel fits one kind of machine only.
    """
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*command, "--constraint", CONSTRAINTS, "--wheel-dir", folder, *PACKAGES, *PEER], check=True)
    if other := [path.name for path in folder.iterdir() if not path.name.endswith("-none-any.whl")]:
        raise ValueError(f"{', '.join(other)} can't be carried: not pure Python")


def prepare(
    folder: Path, resolutions: Sequence[int], num_avatars: int = NUM_AVATARS, *, needs_wheels: bool = True
) -> None:
    """Fill a folder with what is missing in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for resolution in resolutions:
        if not archive_of(folder, resolution).is_file():
            write_archive(folder, resolution, num_avatars)
    (folder / ATTRIBUTION).write_text(f"{attribution()}\n", encoding="utf-8")
    if needs_wheels:
        download_wheels(folder / WHEELS)


def build_parser() -> argparse.ArgumentParser:
    """Declare the flags."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to carry")
    parser.add_argument(
        "--num-avatars", type=int, default=NUM_AVATARS, help=f"at each resolution (default: {NUM_AVATARS})"
    )
    return parser


def main(arguments: Sequence[str]) -> int:
    """Fill the folder, and print what to carry and its size."""
    options = build_parser().parse_args(arguments)
    try:
        prepare(options.out, [run.resolution for run in RUNS], options.num_avatars)
    except subprocess.CalledProcessError as error:
        print(f"pip failed with status {error.returncode}; it needs a network or an index of packages", file=sys.stderr)
        return 1
    files = sorted(path for path in options.out.rglob("*") if path.is_file())
    for path in files:
        print(f"{path.stat().st_size / 2**20:7.2f} MiB  {path}")
    print(f"{sum(path.stat().st_size for path in files) / 2**20:7.2f} MiB  to carry: {options.out}")
    return 0
