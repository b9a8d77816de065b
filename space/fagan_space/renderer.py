"""Program that generates images with somebody else's model, under limits; started by `fagan_space.rendering`.

It writes a PNG for each seed and prints their size; a `ValueError` is for the visitor. It imports nothing else of this
package, and torch only for a model that passed the checks, to keep startup fast.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fagan_hf.architectures.configs import GeneratorConfig
from fagan_hf.hub.client import download, download_size
from fagan_hf.hub.repository import CONFIG, GENERATOR, MAX_CONFIG_BYTES, WEIGHTS
from fagan_hf.utils.json_text import parse_json

if TYPE_CHECKING:
    from fagan_hf.models import Generator

# The generator's files, in its subfolder or in the top folder.
_FILES = [f"{folder}{name}" for folder in (f"{GENERATOR}/", "") for name in (CONFIG, WEIGHTS)]


def fetch(repo_id: str, revision: str | None, folder: Path, most_bytes: int) -> Path:
    """Download a generator.

    Returns:
        The folder of its commit.

    Raises:
        ValueError: There is none, or it is too large; the message is for the visitor.
        OSError: It can't be downloaded.
    """
    # Without our token, which would give visitors access to private models.
    size = download_size(repo_id, allow_patterns=_FILES, revision=revision, token=False)
    if size == 0:
        raise ValueError("it is not a fagan_hf model: it has no generator")
    if size > most_bytes:
        raise ValueError(f"its generator has {size:,} bytes; the limit is {most_bytes:,}")
    return download(repo_id, allow_patterns=_FILES, revision=revision, token=False, cache_dir=folder)


def check_images(folder: Path, count: int, *, longest_side: int, most_pixels: int) -> None:
    """Check how many pixels a model's images have, if it has a valid config.

    Raises:
        ValueError: They have too many; the message is for the visitor.
    """
    path = next((path for path in (folder / GENERATOR / CONFIG, folder / CONFIG) if path.is_file()), None)
    if path is None or path.stat().st_size > MAX_CONFIG_BYTES:
        return  # loading says what is wrong
    size = GeneratorConfig.from_dict(parse_json(path.read_bytes())).image_size
    if size > longest_side:
        raise ValueError(f"its images have {size:,}x{size:,} pixels; the limit is {longest_side:,} per side")
    if count * size**2 > most_pixels:
        raise ValueError(f"{count:,} seeds are too many; at most {most_pixels // size**2} of {size}x{size} are allowed")


def write(generator: "Generator", seeds: list[int], truncation: float, paths: list[Path]) -> None:
    """Generate an image for each seed, as `fagan-hf generate --out FOLDER` does."""
    from fagan_hf.sampling.images import labels_from_seeds, latents_from_seeds, sample, to_uint8
    from fagan_hf.sampling.standing_statistics import recalibrated
    from fagan_hf.viz.colors import as_picture

    latents = latents_from_seeds(seeds, generator.config.latent_dim, truncation)
    labels = labels_from_seeds(generator, seeds)
    images = sample(recalibrated(generator, truncation), latents, labels, progress=False)
    for path, pixels in zip(paths, (pixels for batch in images for pixels in to_uint8(batch)), strict=True):
        as_picture(pixels).save(path, format="PNG")


def run(given: dict[str, Any]) -> int:
    """Download, check, load, and generate.

    Returns:
        Height and width of the images [pixels].

    Raises:
        ValueError: The model can't be used; the message is for the visitor.
        MemoryError: It takes too much memory.
    """
    folder = fetch(given["repo_id"], given["revision"], Path(given["folder"]), given["most_bytes"])
    try:
        seeds = given["seeds"]
        check_images(folder, len(seeds), longest_side=given["longest_side"], most_pixels=given["most_pixels"])
        from fagan_hf.models import Generator

        generator = Generator.from_pretrained(folder)
        write(generator, seeds, given["truncation"], [Path(path) for path in given["paths"]])
    except (ValueError, OSError) as error:
        raise ValueError(str(error).replace(str(folder), "its repository")) from error
    return generator.config.image_size


if __name__ == "__main__":
    sys.stdout.write(str(run(json.loads(sys.argv[1]))))
