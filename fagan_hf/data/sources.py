"""The images of a run: the built-in avatars, a folder, an archive, tables, or a dataset on the Hub.

Listing decodes no image. It determines how many images there are, how error messages name each of them, where its bytes
come from, which label columns exist, and what identifies each image in the name of a cache.
"""

import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import PIL

from fagan_hf.data import avatars
from fagan_hf.data.archives import is_archive
from fagan_hf.data.decode import CHANNELS, PREPROCESSING_VERSION, Fit, check_background
from fagan_hf.data.digests import numbered_digests
from fagan_hf.data.folder import list_folder
from fagan_hf.data.labels import LabelColumn
from fagan_hf.data.listing import Drawing, Listing
from fagan_hf.data.rows import is_saved, list_rows, table_files
from fagan_hf.utils.redaction import redact
from fagan_hf.utils.suggest import suggest

Kind = Literal["avatars", "files", "rows", "hub"]


@dataclass(frozen=True)
class ImageSource:
    """The images of a run and their preprocessing; everything that their pixels depend on.

    Args:
        dataset: `avatars`, `avatars:<style>`; a folder of images or WebDataset shards, a zip or tar file, Parquet or
            Arrow files, a folder written by `save_to_disk`; or the id of a dataset on the Hub.
        resolution: Side of the prepared square images in pixels.
        split: Split of the dataset; for avatars `train` or `test`. A folder may have subfolders `train`, `validation`
            and `test`; without them all images are `train`.
        image_column: Image column of rows; if there is only one, it needs no name.
        label_columns: Columns to use as labels; a folder offers `class`, the names of its subfolders, and the columns
            of its `metadata.csv`, `.jsonl` or `.parquet`.
        crop: Side in pixels of the center square that is kept, 178 for CelebA; `None` keeps the largest.
        fit: How images that are not square become square: `crop`, `pad` or `stretch`.
        background: Color behind transparent pixels and of padding: `white`, `black` or `#rrggbb`.
        channels: 1 for grayscale, 3 for RGB, 4 for RGBA with premultiplied alpha.
        upscale: Whether smaller images are enlarged; otherwise they are an error.
        revision: Branch, tag or commit of a Hub dataset.
        config_name: Configuration of a Hub dataset, if it has several.
        num_avatars: Number of avatars in the training split; `None` for the default of 8,192.
        skip_broken: Whether images that can't be used are left out and counted; otherwise they are an error.

    Raises:
        ValueError: A number is not positive, a choice does not exist, `crop` is smaller than `resolution` without
            `upscale`, or `crop` is given although nothing is cropped.
    """

    dataset: str
    resolution: int
    split: str = "train"
    image_column: str = "image"
    label_columns: tuple[str, ...] = ()
    crop: int | None = None
    fit: Fit = "crop"
    background: str = "white"
    channels: int = 3
    upscale: bool = False
    revision: str | None = None
    config_name: str | None = None
    num_avatars: int | None = None
    skip_broken: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.label_columns, str):
            raise ValueError(f"label_columns must be a tuple of names, got the string {self.label_columns!r}")
        object.__setattr__(self, "label_columns", tuple(self.label_columns))
        for name in ("resolution", "crop"):
            value = getattr(self, name)
            if not (name == "crop" and value is None) and (type(value) is not int or value < 1):
                raise ValueError(f"{name} must be a positive number of pixels, got {value!r}")
        if self.num_avatars is not None and (type(self.num_avatars) is not int or self.num_avatars < 1):
            raise ValueError(f"num_avatars must be a positive number of images, got {self.num_avatars!r}")
        if self.fit not in get_args(Fit):
            raise ValueError(f"fit is {self.fit!r}; {suggest(str(self.fit), get_args(Fit))}")
        if self.channels not in CHANNELS:
            raise ValueError(f"channels is {self.channels!r}; it must be 1 (grayscale), 3 (RGB) or 4 (RGBA)")
        check_background(self.background)
        if self.crop is not None and self.fit != "crop":
            raise ValueError(f"crop is {self.crop}, but fit {self.fit!r} crops nothing; leave out one of them")
        if self.crop is not None and self.crop < self.resolution and not self.upscale:
            raise ValueError(
                f"a crop of {self.crop} is smaller than the resolution of {self.resolution}; "
                "try a larger crop, `--upscale true`, or a smaller model"
            )
        if not str(self.dataset).strip():
            raise ValueError("dataset is empty; use `avatars`, a local folder, or the id of a dataset on the Hub")

    def decoding(self) -> dict[str, Any]:
        """Return the options of `fagan_hf.data.decode.decode_image`; JSON."""
        names = ("resolution", "crop", "fit", "background", "channels", "upscale")
        return {name: getattr(self, name) for name in names}

    def options(self) -> dict[str, Any]:
        """Return the options that differ from the defaults, except dataset, split and resolution; JSON."""
        defaults = {field.name: field.default for field in fields(self)}
        names = [name for name in defaults if name not in ("dataset", "split", "resolution", "skip_broken")]
        asked = {name: getattr(self, name) for name in names if getattr(self, name) != defaults[name]}
        # Through JSON because a tuple is a list there; redacted because facts are published and flags get mixed up.
        return json.loads(redact(json.dumps(asked)))


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
    for name, owner, is_meant in (
        ("num_avatars", "avatars", kind == "avatars"),
        ("config_name", "the Hub", kind == "hub"),
    ):
        if getattr(source, name) is not None and not is_meant:
            raise ValueError(
                f"{name} is {getattr(source, name)}, but it applies to {owner} only, not to {source.dataset}; leave "
                f"{name} out"
            )
    if source.revision is not None and kind != "hub":
        raise ValueError(f"Only datasets on the Hub have revisions; {source.dataset} got {source.revision!r}.")
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
    return any(path.stem.lower() != "metadata" for path in folder.glob("*.parquet")) or any(folder.glob("*.arrow"))


def check_label_columns(source: ImageSource, columns: Collection[str]) -> None:
    """Refuse a label column that does not exist.

    Raises:
        ValueError: There is no such column; lists the available ones.
    """
    for column in source.label_columns:
        if column not in columns:
            raise ValueError(f"{source.dataset} has no label column {column!r}: {suggest(column, columns)}.")


def describe_decoding(source: ImageSource) -> str:
    """Describe for a card how images are preprocessed."""
    size = f"{source.resolution}x{source.resolution}"
    center = "largest center square" if source.crop is None else f"center {source.crop}x{source.crop}"
    shape = {"crop": center, "pad": f"padded to a square with {source.background}", "stretch": "stretched to a square"}
    behind = "" if source.channels == 4 or source.background == "white" else f" on {source.background}"
    form = f"upright {CHANNELS[source.channels]}{behind}, {shape[source.fit]}"
    return f"{form}, Lanczos to {size} (Pillow {PIL.__version__})"


def decoding_identity(source: ImageSource) -> str:
    """Identify everything but the bytes that the pixels of an image depend on."""
    parts = {**source.decoding(), "version": PREPROCESSING_VERSION, "pillow": PIL.__version__}
    return json.dumps(parts, sort_keys=True)


def fingerprint(source: ImageSource, identity: Any) -> str:
    """Hash everything that pixels and labels depend on; `identity` is that of the data, JSON."""
    parts = {"identity": identity, "decoding": decoding_identity(source), "label_columns": source.label_columns}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _list_avatars(source: ImageSource) -> Listing:
    style = source.dataset.partition(":")[2] if ":" in source.dataset else avatars.DEFAULT_STYLE
    splits = {"train": avatars.TRAIN_SEEDS, "test": avatars.TEST_SEEDS}
    if source.split not in splits:
        raise ValueError(f"avatars have no split {source.split!r}: {suggest(source.split, splits)}.")
    if source.crop is not None:
        raise ValueError(f"crop is {source.crop}, but avatars are drawn at the requested size; leave crop out.")
    if source.channels != 3:
        raise ValueError(f"channels is {source.channels}, but avatars are drawn in RGB; leave channels out.")
    seeds = splits[source.split]
    if source.num_avatars is not None:
        if source.split != "train":
            raise ValueError(
                f"num_avatars is {source.num_avatars}, but split {source.split!r} always has the same {len(seeds):,} "
                "avatars; leave num_avatars out"
            )
        seeds = avatars.train_seeds(source.num_avatars)

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
