"""List the images of what `datasets` reads: datasets on the Hub, Parquet and Arrow files, and saved datasets."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fagan_hf.data.archives import Refused
from fagan_hf.data.digests import numbered_digests
from fagan_hf.data.image_source import ImageSource
from fagan_hf.data.labels import LabelColumn
from fagan_hf.data.listing import Content, Listing
from fagan_hf.utils.suggest import suggest

TABLE_SUFFIXES = {".parquet": "parquet", ".arrow": "arrow"}
_SAVED = ("state.json", "dataset_dict.json")  # what `save_to_disk` writes, for a dataset or for one with splits


def is_saved(place: Path) -> bool:
    """Return whether a folder was written by `save_to_disk` of `datasets`."""
    return any((place / name).is_file() for name in _SAVED)


def table_files(place: Path) -> list[Path]:
    """Return the Parquet or Arrow files that a file or a folder consists of."""
    if place.is_file():
        return [place] if place.suffix.lower() in TABLE_SUFFIXES else []
    files = [path for path in sorted(place.rglob("*")) if path.suffix.lower() in TABLE_SUFFIXES and path.is_file()]
    return [path for path in files if path.stem.lower() != "metadata"]


def list_rows(source: ImageSource, place: Path | None) -> Listing:
    """List the images of a dataset on the Hub, or of a local place that `datasets` reads.

    Args:
        source: The source.
        place: A Parquet or Arrow file, a folder of such files, or one written by `save_to_disk`; `None` for the Hub.

    Raises:
        ValueError: There is no such split or image column, or a file is damaged.
        FileNotFoundError: There is no such dataset.
        ImportError: `datasets` is not installed.
    """
    with opening_rows(source) as datasets:
        rows: Any = _load(datasets, source, place)
    features = rows.features
    images = find_image_columns(source, features)
    column = image_column(source, images)
    encoded = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))

    def read(name: str) -> LabelColumn:
        feature = features[name]
        if isinstance(feature, datasets.ClassLabel):
            return LabelColumn([_class_name(feature, value) for value in rows[name][:]], feature.names)
        return LabelColumn(rows[name][:])

    allowed = _allowed_folders(datasets, place)
    facts = hub_facts(source, rows.info, _commit_of(rows))
    if place is not None:
        facts |= {"source": "folder", "dataset": place.resolve().name, "revision": None}
    return Listing(
        count=len(rows),
        name=lambda index: f"row {index}",
        contents=lambda start, stop: [_content(cell, allowed) for cell in encoded[start:stop][column]],
        columns={name: lambda name=name: read(name) for name in features if name not in images},
        identity=f"{rows._fingerprint}\t{column}",
        digests=lambda _: numbered_digests(f"{rows._fingerprint}\t{column}", range(len(rows))),
        facts=facts,
    )


@contextmanager
def opening_rows(source: ImageSource) -> Iterator[Any]:
    """Import `datasets` for a block that opens a dataset, with readable errors.

    Raises:
        FileNotFoundError: There is no such dataset.
        PermissionError: It is gated or private.
        ValueError: It needs a script, or a configuration.
        ImportError: `datasets` is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        message = f'{source.dataset} is not a folder of images; to read it: pip install "fagan-hf[train]"'
        raise ImportError(message) from error
    try:
        yield datasets
    except FileNotFoundError as error:  # DatasetNotFoundError is one
        if "gated" in str(error).lower():
            raise PermissionError(
                f"{source.dataset!r} is gated: accept its terms at https://huggingface.co/datasets/{source.dataset}, "
                "then log in with `hf auth login`."
            ) from error
        raise FileNotFoundError(
            f"{source.dataset!r} is neither a local folder nor a dataset on the Hub that this login can read. "
            "If it is a path, start it with ./ or /. If it is private, log in with `hf auth login`."
        ) from error
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        raise ValueError(
            f"{source.dataset!r} is loaded by a Python script, which is never run. Look for a Parquet version: the Hub "
            f"often has one as --revision refs/convert/parquet."
        ) from error
    except ValueError as error:
        if "config name is missing" not in str(error).lower():
            raise
        raise ValueError(
            f"{source.dataset!r} has several configurations; choose one with --config-name. {error}"
        ) from error


def find_image_columns(source: ImageSource, features: Any) -> list[str]:
    """List the columns that contain images.

    Raises:
        ValueError: There are none.
    """
    images = [name for name, feature in features.items() if _holds_images(feature)]
    if not images:
        raise ValueError(f"{source.dataset} has no column of images; its columns are {', '.join(features)}.")
    return images


def image_column(source: ImageSource, images: list[str]) -> str:
    """Return the image column of a source: the one that it names, or the only one.

    Raises:
        ValueError: It names another, or there are several.
    """
    if source.image_column in images:
        return source.image_column
    if source.image_column == "image" and len(images) == 1:  # the default: not asked for
        return images[0]
    hint = suggest(source.image_column, images)
    raise ValueError(f"{source.dataset} has no image column {source.image_column!r}: {hint}.")


def hub_facts(source: ImageSource, info: Any, commit: str | None) -> dict[str, Any]:
    """Collect for a card the facts in the `DatasetInfo` of a dataset."""
    return {
        "source": "hub",
        "dataset": source.dataset,
        "split": source.split,
        "revision": commit or source.revision,
        "license": info.license or None,
        "attribution": info.citation or info.homepage or None,
    }


def _load(datasets: Any, source: ImageSource, place: Path | None) -> Any:
    if place is None:
        options = {"name": source.config_name} if source.config_name else {}
        return datasets.load_dataset(source.dataset, split=source.split, revision=source.revision, **options)
    if place.is_dir() and is_saved(place):
        saved = datasets.load_from_disk(str(place))
        return _choose_split(source, saved) if isinstance(saved, dict) else _only_train(source, saved)
    files = table_files(place)
    kinds = {TABLE_SUFFIXES[path.suffix.lower()] for path in files}
    if len(kinds) > 1:
        raise ValueError(f"{place} contains Parquet and Arrow files; keep one kind.")
    by_split: dict[str, list[str]] = {}
    for path in files:
        by_split.setdefault(_split_of(path, place), []).append(str(path))
    return _choose_split(source, datasets.load_dataset(kinds.pop(), data_files=by_split))


def _split_of(path: Path, place: Path) -> str:
    """Recognize the split in the name of a Parquet file, such as `train-00000-of-00002.parquet`, or of its folder."""
    relative = path.relative_to(place) if place.is_dir() else Path(path.name)
    words = re.split(r"[^a-z]+", relative.as_posix().lower().rpartition(".")[0])
    names = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}
    return next((names[word] for word in words if word in names), "train")


def _choose_split(source: ImageSource, splits: Any) -> Any:
    if source.split not in splits:
        raise ValueError(f"{source.dataset} has no split {source.split!r}: {suggest(source.split, list(splits))}.")
    return splits[source.split]


def _only_train(source: ImageSource, rows: Any) -> Any:
    if source.split != "train":
        raise ValueError(f"{source.dataset} has no splits, got split {source.split!r}; leave split out.")
    return rows


def _commit_of(rows: Any) -> str | None:
    """Find the commit that a dataset came from: its cache folder is named after it."""
    names = (Path(file["filename"]).parent.name for file in rows.cache_files)
    return next((name for name in names if re.fullmatch(r"[0-9a-f]{40}", name)), None)


def _holds_images(feature: Any) -> bool:
    """Recognize the Hub's image type, and how plain Parquet files store images."""
    if isinstance(feature, dict):
        return set(feature) == {"bytes", "path"}
    return type(feature).__name__ == "Image" or getattr(feature, "dtype", None) == "binary"


def _allowed_folders(datasets: Any, place: Path | None) -> list[Path]:
    """Return the folders in which images of rows may be: a table could name any file of this machine."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folders = [datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH, HF_HUB_CACHE]
    if place is not None:
        folders.append(place if place.is_dir() else place.parent)
    return [Path(folder).resolve() for folder in folders]


def _content(cell: dict[str, Any] | None, allowed: list[Path]) -> Content:
    if cell is None:
        return None
    if cell["bytes"] is not None or not cell["path"]:
        return cell["bytes"]
    path = Path(cell["path"]).resolve()
    is_allowed = any(path.is_relative_to(folder) for folder in allowed)
    return path if is_allowed else Refused(str(path), "is a file outside of the dataset")


def _class_name(feature: Any, value: int | None) -> str | None:
    return None if value is None or value < 0 else feature.int2str(value)  # -1: the Hub's "no label"
