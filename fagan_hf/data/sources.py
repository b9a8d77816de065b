"""List the images of a dataset: the built-in avatars, a folder, or a dataset on the Hub.

Listing reads no image. It determines how many images there are, how error messages name each of them, where its bytes
come from, which label columns exist, and what identifies the dataset in the name of a cache.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import PIL

from fagan_hf.data import avatars
from fagan_hf.data.decode import PREPROCESSING_VERSION, image_suffixes
from fagan_hf.data.labels import LabelColumn
from fagan_hf.utils.redaction import redact
from fagan_hf.utils.suggest import suggest


@dataclass(frozen=True)
class ImageSource:
    """The images of a run and their preprocessing; everything that a cache depends on.

    Args:
        dataset: `avatars`, `avatars:<style>`, a folder, or the id of a dataset on the Hub.
        resolution: Side of the prepared square images in pixels.
        split: Split of a Hub dataset; for avatars `train` or `test`. A folder has none.
        image_column: Image column of a Hub dataset.
        label_columns: Columns to use as labels; a folder offers `class`, the names of its subfolders.
        crop: Side in pixels of the center square that is kept, 178 for CelebA; `None` keeps the largest.
        upscale: Whether smaller images are enlarged; otherwise they are an error.
        revision: Branch, tag or commit of a Hub dataset.
        num_avatars: Number of avatars in the training split; `None` for the default of 8,192.

    Raises:
        ValueError: A number is not positive, or `crop` is smaller than `resolution` without `upscale`.
    """

    dataset: str
    resolution: int
    split: str = "train"
    image_column: str = "image"
    label_columns: tuple[str, ...] = ()
    crop: int | None = None
    upscale: bool = False
    revision: str | None = None
    num_avatars: int | None = None

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
        if self.crop is not None and self.crop < self.resolution and not self.upscale:
            raise ValueError(
                f"a crop of {self.crop} is smaller than the resolution of {self.resolution}; "
                "try a larger crop, `--upscale true`, or a smaller model"
            )
        if not str(self.dataset).strip():
            raise ValueError("dataset is empty; use `avatars`, a local folder, or the id of a dataset on the Hub")

    def options(self) -> dict[str, Any]:
        """Return the options that differ from the defaults, except dataset, split and resolution; JSON."""
        names = ("revision", "image_column", "label_columns", "crop", "upscale", "num_avatars")
        defaults = {field.name: field.default for field in fields(self)}
        asked = {name: getattr(self, name) for name in names if getattr(self, name) != defaults[name]}
        # Through JSON because a tuple is a list there; redacted because facts are published and flags get mixed up.
        return json.loads(redact(json.dumps(asked)))


@dataclass(frozen=True)
class Drawing:
    """An image that is drawn by a program instead of read from a file."""

    seed: int
    style: str


Content = Path | bytes | Drawing | None  # None: the row has no image


@dataclass(frozen=True)
class Listing:
    """The contents of a dataset.

    Args:
        count: Number of images.
        name: Returns the name of image i for error messages.
        contents: Returns the contents of images i to j (exclusive).
        columns: Readers of the label columns by name: a column costs nothing until it is read.
        identity: Changes whenever an image or a label may have changed; JSON.
        facts: For cards: dataset, split, revision, license, attribution; JSON.
        action: Name of the preparation, for the progress bar.
    """

    count: int
    name: Callable[[int], str]
    contents: Callable[[int, int], Sequence[Content]]
    columns: dict[str, Callable[[], LabelColumn]]
    identity: Any
    facts: dict[str, Any]
    action: str = "Reading images"


def list_images(source: ImageSource) -> Listing:
    """List the images of a source, and check that it has the label columns.

    Raises:
        ValueError: No images, or no such style, split, image or label column; lists the available names.
        FileNotFoundError: No such folder, or no such dataset on the Hub.
        ImportError: A package of the extra `train` is missing.
    """
    kinds = {"avatars": _list_avatars, "folder": _list_folder, "hub": _list_hub}
    if source.num_avatars is not None and kind_of_source(source.dataset) != "avatars":
        raise ValueError(
            f"num_avatars is {source.num_avatars}, but it applies to avatars only, not to {source.dataset}; leave "
            "num_avatars out"
        )
    listing = kinds[kind_of_source(source.dataset)](source)
    if listing.count == 0:
        raise ValueError(f"{source.dataset} ({source.split}) contains no images.")
    check_label_columns(source, listing.columns)
    return listing


def kind_of_source(dataset: str) -> Literal["avatars", "folder", "hub"]:
    """Tell avatars, folders and Hub ids apart: a Hub id has at most one slash and begins with a letter or digit.

    Raises:
        ValueError: It is a file.
        FileNotFoundError: It is a path that does not exist.
    """
    path = Path(dataset).expanduser()
    if dataset == "avatars" or dataset.startswith("avatars:"):
        return "avatars"
    if path.is_dir():
        return "folder"
    if path.exists():
        raise ValueError(f"{dataset} is a file; give the folder that contains the images.")
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", dataset):
        raise FileNotFoundError(f"The folder {path.absolute()} does not exist. Is the path correct?")
    return "hub"


def check_label_columns(source: ImageSource, columns: Collection[str]) -> None:
    """Refuse a label column that does not exist.

    Raises:
        ValueError: There is no such column; lists the available ones.
    """
    for column in source.label_columns:
        if column not in columns:
            raise ValueError(f"{source.dataset} has no label column {column!r}: {suggest(column, columns)}.")


def describe_decoding(source: ImageSource) -> str:
    """Describe for a card how the images of a folder or of the Hub are preprocessed."""
    crop = "largest center square" if source.crop is None else f"center {source.crop}x{source.crop}"
    return f"upright RGB, {crop}, Lanczos to {source.resolution}x{source.resolution} (Pillow {PIL.__version__})"


def fingerprint(source: ImageSource, identity: Any) -> str:
    """Hash everything that pixels and labels depend on; `identity` is that of the data, JSON."""
    parts = {
        "identity": identity,
        "resolution": source.resolution,
        "crop": source.crop,
        "upscale": source.upscale,
        "label_columns": source.label_columns,
        "preprocessing": PREPROCESSING_VERSION,
        "pillow": PIL.__version__,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _list_avatars(source: ImageSource) -> Listing:
    style = source.dataset.partition(":")[2] if ":" in source.dataset else avatars.DEFAULT_STYLE
    splits = {"train": avatars.TRAIN_SEEDS, "test": avatars.TEST_SEEDS}
    if source.split not in splits:
        raise ValueError(f"avatars have no split {source.split!r}: {suggest(source.split, splits)}.")
    if source.crop is not None:
        raise ValueError(f"crop is {source.crop}, but avatars are drawn at the requested size; leave crop out.")
    _refuse_revision(source)
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
        identity=[avatars.drawing_version(style), seeds[0], seeds[-1] + 1],
        facts={
            "source": "avatars",
            "dataset": f"avatars:{style}",
            "split": source.split,
            "license": credit.license_name,
            "attribution": str(credit),
        },
        action="Drawing avatars",
    )


def _list_folder(source: ImageSource) -> Listing:
    if source.split != "train":
        raise ValueError(
            f"A folder has no splits, got split {source.split!r}. Use the subfolder as the dataset, "
            f"for example {Path(source.dataset) / source.split}."
        )
    _refuse_revision(source)
    root = Path(source.dataset).expanduser()
    paths, others = _walk(root)
    if not paths:
        found = f", but {others} other files" if others else ", it is empty"
        raise ValueError(f"{root} contains no images{found}. Images end in .jpg, .png, .webp, .pgm ...")
    names = [path.relative_to(root).as_posix() for path in paths]
    stats = [path.stat() for path in paths]
    lines = "\n".join(f"{name}\t{stat.st_size}\t{stat.st_mtime_ns}" for name, stat in zip(names, stats, strict=True))
    classes = [path.parent.relative_to(root).as_posix() for path in paths]
    has_classes = any(name != "." for name in classes)

    def read_class() -> LabelColumn:
        if "." in classes:
            stray = paths[classes.index(".")]
            raise ValueError(f"{stray} is not in a subfolder, so it has no class. Move it into one.")
        return LabelColumn(classes, sorted(set(classes)))

    return Listing(
        count=len(paths),
        name=lambda index: str(paths[index]),
        contents=lambda start, stop: paths[start:stop],
        columns={"class": read_class} if has_classes else {},
        identity=hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest(),
        facts={"source": "folder", "dataset": root.resolve().name, "split": None},
    )


def _walk(root: Path) -> tuple[list[Path], int]:
    """Find the images under a folder, sorted, and count the other files. Hidden files and folders are skipped.

    Links to folders are not followed because they may form cycles.
    """

    def fail(error: OSError) -> None:
        raise error  # os.walk would silently skip what it can't read

    paths, others = [], 0
    for folder, subfolders, files in os.walk(root, onerror=fail):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        visible = [Path(folder, name) for name in files if not name.startswith(".")]
        images = [path for path in visible if path.suffix.lower() in image_suffixes()]
        paths += images
        others += len(visible) - len(images)
    return sorted(paths), others


def _list_hub(source: ImageSource) -> Listing:
    with opening_from_hub(source) as datasets:
        rows: Any = datasets.load_dataset(source.dataset, split=source.split, revision=source.revision)
    features = rows.features
    images = find_image_columns(source, features)
    encoded = rows.select_columns([source.image_column])
    encoded = encoded.cast_column(source.image_column, datasets.Image(decode=False))

    def read(column: str) -> LabelColumn:
        feature = features[column]
        if isinstance(feature, datasets.ClassLabel):
            return LabelColumn([_class_name(feature, value) for value in rows[column][:]], feature.names)
        return LabelColumn(rows[column][:])

    return Listing(
        count=len(rows),
        name=lambda index: f"row {index}",
        contents=lambda start, stop: [_content(cell) for cell in encoded[start:stop][source.image_column]],
        columns={name: lambda name=name: read(name) for name in features if name not in images},
        identity=[source.dataset, source.revision, source.split, source.image_column, rows._fingerprint],
        facts=hub_facts(source, rows.info, _commit_of(rows)),
    )


@contextmanager
def opening_from_hub(source: ImageSource) -> Iterator[Any]:
    """Import `datasets` for a block that opens a dataset on the Hub, with readable errors.

    Raises:
        FileNotFoundError: There is no such dataset.
        ImportError: `datasets` is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        message = f'{source.dataset} is not a local folder, and datasets on the Hub need: pip install "fagan-hf[train]"'
        raise ImportError(message) from error
    try:
        yield datasets
    except FileNotFoundError as error:  # DatasetNotFoundError is one
        raise FileNotFoundError(
            f"{source.dataset!r} is neither a local folder nor a dataset on the Hub that this login can read. "
            "If it is a path, start it with ./ or /."
        ) from error


def find_image_columns(source: ImageSource, features: Any) -> list[str]:
    """List the columns of a Hub dataset that contain images.

    Raises:
        ValueError: The image column of `source` is not among them.
    """
    images = [name for name, feature in features.items() if _holds_images(feature)]
    if source.image_column not in images:
        hint = suggest(source.image_column, images)
        raise ValueError(f"{source.dataset} has no image column {source.image_column!r}: {hint}.")
    return images


def hub_facts(source: ImageSource, info: Any, commit: str | None) -> dict[str, Any]:
    """Collect for a card the facts in the `DatasetInfo` of a Hub dataset."""
    return {
        "source": "hub",
        "dataset": source.dataset,
        "split": source.split,
        "revision": commit or source.revision,
        "license": info.license or None,
        "attribution": info.citation or info.homepage or None,
    }


def _commit_of(rows: Any) -> str | None:
    """Find the commit that a dataset came from: its cache folder is named after it."""
    names = (Path(file["filename"]).parent.name for file in rows.cache_files)
    return next((name for name in names if re.fullmatch(r"[0-9a-f]{40}", name)), None)


def _holds_images(feature: Any) -> bool:
    """Recognize the Hub's image type, and how plain Parquet files store images."""
    if isinstance(feature, dict):
        return set(feature) == {"bytes", "path"}
    return type(feature).__name__ == "Image" or getattr(feature, "dtype", None) == "binary"


def _content(cell: dict[str, Any] | None) -> Content:
    if cell is None:
        return None
    return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"])


def _class_name(feature: Any, value: int | None) -> str | None:
    return None if value is None or value < 0 else feature.int2str(value)  # -1: the Hub's "no label"


def _refuse_revision(source: ImageSource) -> None:
    if source.revision is not None:
        raise ValueError(f"Only datasets on the Hub have revisions; {source.dataset} got {source.revision!r}.")
