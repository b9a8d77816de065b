"""The images of a run: the built-in avatars, a folder, an archive, tables, or a dataset on the Hub.

Listing decodes no image. It determines how many images there are, how error messages name each of them, where its bytes
come from, which label columns exist, and what identifies each image in the name of a cache.
"""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from fagan_hf.data import avatars
from fagan_hf.data.archives import is_archive
from fagan_hf.data.decode import image_suffixes
from fagan_hf.data.digests import numbered_digests
from fagan_hf.data.folder import list_folder
from fagan_hf.data.image_source import ImageSource
from fagan_hf.data.labels import LabelColumn
from fagan_hf.data.listing import Drawing, Listing
from fagan_hf.data.rows import is_saved, list_rows, table_files
from fagan_hf.utils.suggest import suggest

Kind = Literal["avatars", "files", "rows", "hub"]


def list_images(source: ImageSource, *, unpacked: Path | None = None) -> Listing:
    """List the images of a source, and check that it has the label columns.

    Args:
        source: The source.
        unpacked: Folder for decompressed copies of compressed tar files; default in the folder of caches.

    Raises:
        ValueError: No images, or no such style, split, image or label column; lists the available names.
        FileNotFoundError: No such folder, or no such dataset on the Hub.
        ImportError: A package of the extra `train` is missing.
        OSError: The disk is full, or something can't be read.
    """
    kind = kind_of_source(source.dataset)
    for name, owner in (("num_avatars", "avatars"), ("config_name", "hub"), ("revision", "hub")):
        if getattr(source, name) is not None and kind != owner:
            what = "avatars" if owner == "avatars" else "datasets on the Hub"
            raise ValueError(
                f"{name} is {getattr(source, name)!r}, but it applies to {what} only, not to {source.dataset}; leave "
                f"{name} out"
            )
    place = Path(source.dataset).expanduser()
    if kind == "avatars":
        listing = _list_avatars(source)
    elif kind == "files":
        listing = list_folder(place, source.split, unpacked=unpacked or _unpacked())
    else:
        listing = list_rows(source, place if kind == "rows" else None)
    if listing.count == 0:
        raise ValueError(f"{source.dataset} ({source.split}) contains no images.")
    check_label_columns(source, listing.columns)
    return listing


def kind_of_source(dataset: str) -> Kind:
    """Tell avatars, files, tables of rows and Hub ids apart: a Hub id has at most one slash and begins with a letter.

    Raises:
        ValueError: It is a file that is neither an archive nor a table.
        FileNotFoundError: It is a path that does not exist.
    """
    path = Path(dataset).expanduser()
    if dataset == "avatars" or dataset.startswith("avatars:"):
        return "avatars"
    if path.is_dir():
        return "rows" if _is_rows(path) else "files"
    if path.is_file() and table_files(path):
        return "rows"
    if path.is_file() and is_archive(path):
        return "files"
    if path.exists():
        raise ValueError(
            f"{dataset} is a file; give the folder that contains the images, a zip or tar file, or a Parquet file."
        )
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", dataset):
        raise FileNotFoundError(f"The folder {path.absolute()} does not exist. Is the path correct?")
    return "hub"


def _is_rows(folder: Path) -> bool:
    """Return whether a folder holds tables with images in them, rather than image files."""
    if is_saved(folder):
        return True
    tables = [*folder.glob("*.parquet"), *folder.glob("*.arrow")]
    if all(path.stem.lower() == "metadata" for path in tables):
        return False
    return not any(path.suffix.lower() in image_suffixes() for path in folder.rglob("*"))  # else they are labels


def check_label_columns(source: ImageSource, columns: Collection[str]) -> None:
    """Refuse a label column that does not exist.

    Raises:
        ValueError: There is no such column; lists the available ones.
    """
    for column in source.label_columns:
        if column not in columns:
            raise ValueError(f"{source.dataset} has no label column {column!r}: {suggest(column, columns)}.")


def avatar_seeds(source: ImageSource) -> Sequence[int]:
    """Return the seeds of a source's avatars, in order.

    Raises:
        ValueError: There is no such split, or a number of avatars is given for the test split.
    """
    splits = {"train": avatars.TRAIN_SEEDS, "test": avatars.TEST_SEEDS}
    if source.split not in splits:
        raise ValueError(f"avatars have no split {source.split!r}: {suggest(source.split, splits)}.")
    seeds = splits[source.split]
    if source.num_avatars is not None:
        if source.split != "train":
            raise ValueError(
                f"num_avatars is {source.num_avatars}, but split {source.split!r} always has the same {len(seeds):,} "
                "avatars; leave num_avatars out"
            )
        return avatars.train_seeds(source.num_avatars)
    return seeds


def _list_avatars(source: ImageSource) -> Listing:
    style = source.dataset.partition(":")[2] if ":" in source.dataset else avatars.DEFAULT_STYLE
    if source.crop is not None:
        raise ValueError(f"crop is {source.crop}, but avatars are drawn at the requested size; leave crop out.")
    if source.channels != 3:
        raise ValueError(f"channels is {source.channels}, but avatars are drawn in RGB; leave channels out.")
    seeds = avatar_seeds(source)

    def read(name: str, values: tuple[str, ...] | None) -> LabelColumn:
        return LabelColumn([avatars.avatar_labels(seed, style=style)[name] for seed in seeds], values)

    credit = avatars.attribution(style)
    return Listing(
        count=len(seeds),
        name=lambda index: f"avatar {seeds[index]}",
        contents=lambda start, stop: [Drawing(seed, style) for seed in seeds[start:stop]],
        columns={
            name: lambda name=name, values=values: read(name, values)
            for name, values in avatars.label_values(style).items()
        },
        identity=f"{avatars.drawing_version(style)}\t{list(seeds)}",
        digests=lambda _: numbered_digests(avatars.drawing_version(style), seeds),
        facts={
            "source": "avatars",
            "dataset": f"avatars:{style}",
            "split": source.split,
            "license": credit.license_name,
            "attribution": str(credit),
        },
        action="Drawing avatars",
    )


def _unpacked() -> Path:
    from fagan_hf.data.cache import cache_root

    return cache_root(None) / "unpacked"
