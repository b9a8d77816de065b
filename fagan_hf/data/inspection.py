"""Look at the images of a dataset before training: sizes, shapes, colors, duplicates, and what can't be used.

Each image is decoded once, small where its format allows it. What was found is remembered by the bytes of the image, so
a second look is fast.
"""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps
from tqdm import tqdm

from fagan_hf.data.archives import Member
from fagan_hf.data.cache import UNPACKED, cache_root
from fagan_hf.data.decode import UnusableImageError, decode_image, readable_formats, to_rgb
from fagan_hf.data.digests import recall_facts, remember_facts
from fagan_hf.data.image_source import ImageSource
from fagan_hf.data.listing import Content, Drawing, Listing
from fagan_hf.data.sources import list_images
from fagan_hf.data.workers import map_in_processes

_QUESTION = "what is it? version 1"
_THUMBNAIL = 8  # side of the images that near-duplicates are compared by [pixels]
_DRAFT = 64  # JPEGs are decoded at about this size [pixels]
_SAME_BITS = 3  # of the 64 of a difference hash that may differ between near-duplicates
_SAME_LEVELS = 10  # largest difference of their thumbnails, of 256 levels
_BANDS = 8  # of 8 bits: 3 differing bits leave some two neighboring bands equal
_MOST_IN_A_GROUP = 200  # images with the same two bands; more are flat images, whose hashes say nothing
_GRAY_LEVELS = 6  # difference of the channels of a gray photograph, which JPEG tints
_OPAQUE = 250


@dataclass(frozen=True)
class Seen:
    """What is known about an image.

    Attributes:
        width, height: Upright size [pixels]; 0 if it can't be read.
        format: Name of the file format, such as "JPEG"; empty if it can't be read.
        is_gray: Whether all pixels are gray.
        is_transparent: Whether some pixels are.
        hash: Difference hash of 64 bits.
        thumbnail: RGB of 8x8 pixels, 192 hexadecimal pairs.
        note: What was assumed about it, in words.
        problem, hint: Why it can't be read, and what to do; empty if it can.
    """

    width: int = 0
    height: int = 0
    format: str = ""
    is_gray: bool = False
    is_transparent: bool = False
    hash: int = 0
    thumbnail: str = ""
    note: str = ""
    problem: str = ""
    hint: str = ""

    @property
    def is_readable(self) -> bool:
        """Whether it could be decoded."""
        return not self.problem

    @property
    def cut_off(self) -> float:
        """Share of the area that the largest center square leaves out."""
        return 1 - min(self.width, self.height) / max(self.width, self.height, 1)


@dataclass(frozen=True)
class Inspection:
    """What is known about all images of a dataset, by position."""

    seen: Sequence[Seen]
    digests: np.ndarray

    @cached_property
    def readable(self) -> list[int]:
        """Positions of the images that could be decoded."""
        return [at for at, each in enumerate(self.seen) if each.is_readable]

    def share(self, name: str) -> float:
        """Return the share of readable images for which an attribute holds, such as ``is_gray``."""
        return sum(getattr(self.seen[at], name) for at in self.readable) / max(1, len(self.readable))

    def shortest_sides(self) -> np.ndarray:
        """Return the shorter side of each readable image [pixels]."""
        return np.array([min(self.seen[at].width, self.seen[at].height) for at in self.readable], np.int64)

    def exact_copies(self) -> list[tuple[int, int]]:
        """Return pairs of images with the same bytes: the first, and each copy."""
        first: dict[bytes, int] = {}
        pairs = []
        for at in self.readable:
            original = first.setdefault(self.digests[at].tobytes(), at)
            if original != at:
                pairs.append((original, at))
        return pairs

    def near_duplicates(self) -> list[tuple[int, int]]:
        """Return pairs of images that look alike but have other bytes: the first, and each that is like it."""
        hashes = np.array([self.seen[at].hash for at in self.readable], np.uint64)
        thumbnails = np.array([list(bytes.fromhex(self.seen[at].thumbnail)) for at in self.readable], np.int16)
        like: dict[int, int] = {}
        for band in range(_BANDS):
            shift, rest = np.uint64(8 * band), np.uint64((64 - 8 * band) % 64)
            keys = (hashes >> shift | hashes << rest) & np.uint64(0xFFFF)
            for members in _groups(keys):
                _compare(members, hashes, thumbnails, like)
        copies = {copy for _, copy in self.exact_copies()}
        pairs = ((self.readable[one], self.readable[two]) for two, one in sorted(like.items()))
        return [(one, two) for one, two in pairs if two not in copies]

    def problems(self) -> Counter[str]:
        """Count the images that can't be read by what is wrong."""
        return Counter(each.problem.partition(" (")[0] for each in self.seen if each.problem)

    def notes(self) -> Counter[str]:
        """Count what was assumed about images."""
        return Counter(each.note for each in self.seen if each.note)

    def formats(self) -> Counter[str]:
        """Count the readable images by format."""
        return Counter(self.seen[at].format for at in self.readable)


def inspect_source(source: ImageSource, *, progress: bool = True) -> tuple[Listing, Inspection]:
    """List the images of a source, and look at every one of them.

    Raises:
        FileNotFoundError, ImportError, OSError, ValueError: See `fagan_hf.data.sources.list_images`.
    """
    root = cache_root(None)
    listing = list_images(source, unpacked=root / UNPACKED)
    return listing, inspect_images(listing, root, progress=progress)


def inspect_images(
    listing: Listing, root: Path, *, progress: bool = True, num_processes: int | None = None
) -> Inspection:
    """Look at every image of a listing that was not looked at before.

    Args:
        listing: Returned by `fagan_hf.data.sources.list_images`.
        root: Folder of caches, with the memory of earlier looks.
        progress: Whether to show a progress bar on stderr.
        num_processes: Number of processes; default one per available core.
    """
    digests = listing.digests(progress)
    known = recall_facts(root, digests, _QUESTION)
    seen = {at: _restored(facts) for at, facts in known.items()}
    seen = {at: each for at, each in seen.items() if each is not None}
    missing = [at for at in range(listing.count) if at not in seen]
    with (
        tqdm(total=len(missing), desc="Inspecting images", unit="img", disable=not progress or not missing) as bar,
        closing(map_in_processes(_look_at_some, listing, missing, num_processes)) as found,
    ):
        for part in found:
            seen |= part
            lasting = {at: asdict(each) for at, each in part.items() if each.hint != _TRY_AGAIN}
            remember_facts(root, digests, _QUESTION, lasting)
            bar.update(len(part))
    return Inspection([seen[at] for at in range(listing.count)], digests)


_TRY_AGAIN = "Check that the file can be read."


def _restored(facts: Any) -> Seen | None:
    try:
        return Seen(**facts)
    except TypeError:  # of another version, or damaged
        return None


def _look_at_some(contents: Mapping[int, Content]) -> dict[int, Seen]:
    return {at: look_at(content) for at, content in contents.items()}


def look_at(content: Content) -> Seen:
    """Look at one image."""
    if isinstance(content, Drawing):
        return Seen(64, 64, "drawing", thumbnail="00" * 3 * _THUMBNAIL**2)
    if content is None or not isinstance(content, Path | bytes | Member):
        return Seen(problem="has no image", hint="Remove the rows without an image.")
    try:
        data = content.read() if isinstance(content, Member) else content
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=readable_formats()) as image:
            return _describe(image)
    except Exception as error:  # for damaged files Pillow raises nearly anything
        return _explain(content, error)


def _explain(content: Path | bytes | Member, error: Exception) -> Seen:
    """Say what is wrong in the words of training."""
    if getattr(error, "errno", None) is not None:
        return Seen(problem=f"can't be read ({error})", hint=_TRY_AGAIN)
    try:
        decode_image(content, resolution=1, upscale=True)
    except UnusableImageError as unusable:
        return Seen(problem=str(unusable), hint=unusable.hint)
    return Seen(
        problem=f"can't be decoded ({type(error).__name__}: {error})", hint="Replace or remove the damaged images."
    )


def _describe(image: Image.Image) -> Seen:
    name, size, mode = image.format or "", image.size, image.mode
    image.draft("RGB", (_DRAFT, _DRAFT))  # for JPEG: several times faster
    image.load()
    note = _assumed(image, mode)
    turned = ImageOps.exif_transpose(image)
    width, height = size[::-1] if image.getexif().get(ExifTags.Base.Orientation, 1) >= 5 else size
    small = turned.resize((_DRAFT, _DRAFT)) if turned.mode not in ("P", "1") and turned.mode[0] not in "IF" else turned
    alpha = np.asarray(small.convert("RGBA").getchannel("A")) if small.has_transparency_data else None
    rgb = to_rgb(small)
    pixels = np.asarray(rgb.resize((32, 32))).astype(np.int16)
    steps = np.asarray(rgb.convert("L").resize((9, 8), Image.Resampling.BOX)).astype(np.int16)
    bits = (steps[:, 1:] > steps[:, :-1]).flatten()
    return Seen(
        width=width,
        height=height,
        format={"MPO": "JPEG", "PPM": "PNM"}.get(name, name),
        is_gray=bool((pixels.max(2) - pixels.min(2)).max() <= _GRAY_LEVELS),
        is_transparent=alpha is not None and bool(alpha.min() < _OPAQUE),
        hash=int(np.packbits(bits).view(">u8")[0]),
        thumbnail=rgb.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX).tobytes().hex(),
        note=note,
    )


def _assumed(image: Image.Image, mode: str) -> str:
    """Say what is assumed about levels that are not 8 bits."""
    if mode == "F":
        return "floats, taken as gray levels from 0 to 1"
    if not mode.startswith("I"):
        return ""
    brightest = int(np.asarray(image).max())
    dark = " (the brightest is much darker: 12 bits, or less?)" if brightest < 16_384 else ""
    return f"16-bit gray levels, taken as 0 to 65,535{dark}"


def _groups(keys: np.ndarray) -> list[np.ndarray]:
    """Return the positions of equal keys, where there are at least two."""
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=keys[order][:1] - np.uint64(1)))
    return [group for group in np.split(order, starts[1:]) if 1 < len(group) <= _MOST_IN_A_GROUP]


def _compare(members: np.ndarray, hashes: np.ndarray, thumbnails: np.ndarray, like: dict[int, int]) -> None:
    """Note which members of a group look like an earlier one."""
    members = np.sort(members)
    for number, one in enumerate(members[:-1].tolist()):
        others = members[number + 1 :]
        bits = np.bitwise_count(hashes[others] ^ hashes[one])
        levels = np.abs(thumbnails[others] - thumbnails[one]).max(1)
        for two in others[(bits <= _SAME_BITS) & (levels <= _SAME_LEVELS)].tolist():
            like[two] = min(one, like.get(two, one))
