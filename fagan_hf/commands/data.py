"""``fagan-hf data``: look at images before training on them, and at the cache of decoded ones."""

import argparse
import shlex
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fagan_hf.commands.pictures import check_picture, save_picture
from fagan_hf.commands.switches import add_switch

if TYPE_CHECKING:
    import numpy as np

    from fagan_hf.data.inspection import Inspection
    from fagan_hf.data.listing import Listing

_PREVIEW_IMAGES = 32
_PREVIEW_PIXELS = 96
_DARKER = 0.4
_NAMED = 3
_DAY_SECONDS = 86_400


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.description = (
        "Look at images before training: how many there are, of which kinds and sizes; what can't be read and why; "
        "copies and near-duplicates; what cropping cuts off; labels; and the command to train on them. Exits with "
        "status 1 if none can be used."
    )
    parser.add_argument(
        "place", nargs="?", help="a folder or archive of images, Parquet files, a dataset id on the Hub, or avatars"
    )
    parser.add_argument("--split", default="train", help="split of the dataset (default: train)")
    parser.add_argument("--config-name", help="configuration of a Hub dataset, if it has several")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub dataset")
    parser.add_argument("--image-column", default="image", help="image column; not needed if there is only one")
    parser.add_argument(
        "--preview",
        type=Path,
        metavar="PICTURE",
        help="save a grid of images here, those that cropping changes most last; what it cuts off is darker",
    )
    add_switch(parser, "--cache", "list the cache of decoded images, instead of looking at a place")
    add_switch(parser, "--clear", "empty the cache of decoded images")


def run(options: argparse.Namespace) -> int:
    """Print what was found, or look after the cache; return the exit status."""
    check_picture(options.preview)
    if options.clear or options.cache:
        if options.place is not None:
            raise ValueError("--cache and --clear concern all decoded images; leave out the place")
        _look_after_cache(is_cleared=options.clear)
        return 0
    if options.place is None:
        raise ValueError("give a place to look at, such as ~/pictures; or --cache, or --clear")

    from fagan_hf.data.image_source import ImageSource
    from fagan_hf.data.inspection import inspect_source

    names = ("split", "config_name", "revision", "image_column")
    given: dict[str, Any] = {name: getattr(options, name) for name in names}
    try:
        listing, inspection = inspect_source(ImageSource(options.place, resolution=1, **given))
    except ValueError as error:
        if "no images" not in str(error):
            raise
        print(f"Nothing usable: {error}")
        return 1
    for line in report(listing, inspection):
        print(line)
    if not inspection.readable:
        print("Nothing usable: none of the images can be read.")
        return 1
    if options.preview is not None:
        _save_preview(listing, inspection, options.preview)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value != _DEFAULTS.get(name)]
    print(f"Train on them: {shlex.join(['fagan-hf', 'train', options.place, *flags])}")
    return 0


_DEFAULTS = {"split": "train", "image_column": "image", "config_name": None, "revision": None}


def report(listing: "Listing", inspection: "Inspection") -> list[str]:
    """Describe the images of a dataset, a line for each aspect."""
    readable = len(inspection.readable)
    lines = [listing.summary or f"{listing.count:,} images"]
    if readable < listing.count:
        lines += _problems(listing, inspection)
    if not readable:
        return lines
    lines.append(f"formats: {_counted(inspection.formats())}")
    lines += [_sizes(inspection), _shapes(listing, inspection)]
    gray, transparent = inspection.share("is_gray"), inspection.share("is_transparent")
    lines.append(f"colors: {gray:.0%} of the images are gray, {transparent:.0%} have transparent pixels")
    lines += [f"assumed: {count:,} of {note}" for note, count in inspection.notes().most_common()]
    copies, alike = inspection.exact_copies(), inspection.near_duplicates()
    if copies or alike:
        shown = [f"{_short(listing, one)} and {_short(listing, two)}" for one, two in [*copies, *alike][:_NAMED]]
        lines.append(
            f"duplicates: {len(copies):,} exact copies, {len(alike):,} near-duplicates, for example {'; '.join(shown)}"
        )
    return lines + _labels(listing)


def _problems(listing: "Listing", inspection: "Inspection") -> list[str]:
    broken = [at for at, each in enumerate(inspection.seen) if not each.is_readable]
    lines = [f"can't be read: {len(broken):,} images: {_counted(inspection.problems())}"]
    lines += [f"  {listing.name(at)} {inspection.seen[at].problem}" for at in broken[:_NAMED]]
    if len(broken) > _NAMED:
        lines.append(f"  and {len(broken) - _NAMED:,} more")
    hints = dict.fromkeys(inspection.seen[at].hint for at in broken)
    return [*lines, *(f"  {hint}" for hint in hints), "  Training leaves them out with --skip-broken."]


def _sizes(inspection: "Inspection") -> str:
    sizes = Counter((inspection.seen[at].width, inspection.seen[at].height) for at in inspection.readable)
    if len(sizes) == 1:
        [(width, height)] = sizes
        return f"sizes: all {width}x{height} pixels"
    sides = sorted(inspection.shortest_sides().tolist())
    small = min(sizes, key=lambda size: size[0] * size[1])
    large = max(sizes, key=lambda size: size[0] * size[1])
    return (
        f"sizes: from {small[0]}x{small[1]} to {large[0]}x{large[1]} pixels; shorter side {sides[len(sides) // 10]} or "
        f"more for nine in ten images, median {sides[len(sides) // 2]}"
    )


def _shapes(listing: "Listing", inspection: "Inspection") -> str:
    cut = {at: inspection.seen[at].cut_off for at in inspection.readable}
    worst = max(cut, key=lambda at: cut[at])
    mean = sum(cut.values()) / len(cut)
    if cut[worst] < 0.005:
        return "shapes: all square"
    return (
        f"shapes: the center square cuts off {mean:.0%} of the area on average, at most {cut[worst]:.0%} "
        f"({_short(listing, worst)}); --fit pad keeps everything"
    )


def _labels(listing: "Listing") -> list[str]:
    lines = []
    for name, read in listing.columns.items():
        try:
            values = Counter(value for value in read().values if value is not None)
        except (ValueError, TypeError):
            continue
        if len(values) < 2 or any(isinstance(value, float | list | dict) for value in values):
            continue
        missing = listing.count - sum(values.values())
        rest = f"; {missing:,} images have none" if missing else ""
        rare = min(values.values())
        hint = f"; the rarest has {rare:,} image{'s' * (rare != 1)}" if len(values) > 2 else ""
        lines.append(f"label {name}: {len(values):,} values: {_counted(values)}{hint}{rest} (--label-columns {name})")
    return lines


def _counted(counts: Counter[Any], most: int = 5) -> str:
    named = ", ".join(f"{name} {count:,}" for name, count in counts.most_common(most))
    return named + (f" and {len(counts) - most:,} more" if len(counts) > most else "")


def _short(listing: "Listing", at: int) -> str:
    return listing.name(at).replace("\\", "/").rpartition("/")[2]


def _save_preview(listing: "Listing", inspection: "Inspection", path: Path) -> None:
    """Save images as they are, with what the center crop cuts off darkened, spread from the least to the most cut."""
    import numpy as np

    from fagan_hf.viz.grids import image_grid

    ordered = sorted(inspection.readable, key=lambda at: inspection.seen[at].cut_off)
    chosen = [ordered[round(place)] for place in np.linspace(0, len(ordered) - 1, min(_PREVIEW_IMAGES, len(ordered)))]

    def preview(at: int) -> "np.ndarray | None":
        return _preview(listing.contents(at, at + 1)[0], inspection.seen[at].cut_off)

    tiles = [tile for at in chosen if (tile := preview(at)) is not None]
    save_picture(image_grid(np.stack(tiles), columns=8), path)
    print(f"preview: {path}: darker parts are cut off by the center crop")


def _preview(content: Any, cut_off: float) -> "np.ndarray | None":
    """Show an image with bars; what the center crop cuts off is darker."""
    import numpy as np

    from fagan_hf.data.avatars import draw_avatar
    from fagan_hf.data.decode import UnusableImageError, decode_image
    from fagan_hf.data.listing import Drawing

    if isinstance(content, Drawing):
        return draw_avatar(content.seed, style=content.style, size=_PREVIEW_PIXELS)
    try:
        image = decode_image(content, resolution=_PREVIEW_PIXELS, fit="pad", channels=4, upscale=True)
    except UnusableImageError:  # it has changed since it was inspected
        return None
    pixels = image.transpose(1, 2, 0).astype(np.float32)
    inside = pixels[..., 3] > 0
    side = round(_PREVIEW_PIXELS * (1 - cut_off))
    kept = slice((_PREVIEW_PIXELS - side) // 2, (_PREVIEW_PIXELS + side) // 2)
    brightness = np.full((_PREVIEW_PIXELS, _PREVIEW_PIXELS, 1), _DARKER, np.float32)
    brightness[kept, kept] = 1
    shown = (pixels[..., :3] + 255 - pixels[..., 3:]) * np.where(inside[..., None], brightness, 1)
    return shown.clip(0, 255).astype(np.uint8)


def _look_after_cache(*, is_cleared: bool) -> None:
    from fagan_hf.data.cache import cache_root, clear_caches, list_caches

    root = cache_root(None)
    if is_cleared:
        freed, left = clear_caches(root)
        print(f"{root}: freed {_megabytes(freed)}")
        for path in left:
            print(f"  {path} is in use, and was kept")
        return
    entries = list_caches(root)
    print(f"{root}: {_megabytes(sum(entry.size_bytes for entry in entries))} in {len(entries):,} entries")
    for entry in entries:
        days = int((time.time() - entry.used) / _DAY_SECONDS)
        print(f"  {_megabytes(entry.size_bytes):>12}  {entry.kind}, used {_ago(days)}: {entry.path.name}")


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _ago(days: int) -> str:
    return "today" if days < 1 else f"{days:,} day{'s' * (days != 1)} ago"
