"""List the images of a folder or an archive: which are in a split, and what subfolders and tables say about them."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fagan_hf.data.archives import is_archive
from fagan_hf.data.digests import content_digests
from fagan_hf.data.files import DataFile, Found, describe_unread, find_files
from fagan_hf.data.labels import MAX_CLASSES, LabelColumn
from fagan_hf.data.listing import Listing
from fagan_hf.data.tables import Table, count_matches, is_metadata, join_tables, read_table
from fagan_hf.utils.json_text import parse_json
from fagan_hf.utils.suggest import suggest

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
_MAX_OTHER_TABLES = 8  # tried for file names; a folder with more of them holds something else
_MATCHING_SHARE = 0.5  # of the images, which a table of another name must describe to be one of labels


@dataclass(frozen=True)
class FolderContents:
    """The images of a folder, and what is known about each without reading it.

    Attributes:
        images: The images.
        splits: Split of each image; empty if the folder has none.
        split_sizes: Number of images in each split.
        classes: Subfolder of each image inside its split, "." if there is none.
        columns: Values of the columns of tables and sidecar files for each image.
        found: All files, for what was left out.
        problems: Sentences about rows of tables without an image.
    """

    images: list[DataFile]
    splits: list[str]
    split_sizes: Counter[str]
    classes: list[str]
    columns: dict[str, list[Any]]
    found: Found
    problems: list[str]

    def in_split(self, split: str) -> "FolderContents":
        """Return the images of one split; of a folder without splits all, as "train".

        Raises:
            ValueError: There is no such split; lists those that exist.
        """
        wanted = SPLIT_NAMES.get(split.lower(), split)
        if not self.splits:
            if wanted == "train":
                return self
            raise ValueError(f"it has no splits, got split {split!r}; leave split out")
        if wanted not in self.splits:
            raise ValueError(f"it has no split {split!r}: {suggest(wanted, sorted(set(self.splits)))}")
        chosen = [index for index, each in enumerate(self.splits) if each == wanted]
        return FolderContents(
            [self.images[index] for index in chosen],
            [wanted] * len(chosen),
            self.split_sizes,
            [self.classes[index] for index in chosen],
            {name: [values[index] for index in chosen] for name, values in self.columns.items()},
            self.found,
            self.problems,
        )

    def label_columns(self) -> dict[str, LabelColumn]:
        """Return the columns that can be labels: those of tables and sidecar files, and the class of each image."""
        columns = {name: LabelColumn(values) for name, values in self.columns.items() if _may_be_labels(values)}
        if any(name != "." for name in self.classes) and "class" not in columns:
            names = [None if name == "." else name for name in self.classes]
            columns["class"] = LabelColumn(names, sorted({name for name in names if name}))
        return columns

    def summary(self) -> str:
        """Describe in one line how many images there are, and what was left out."""
        count = len(self.images)
        counted = f"{count:,} image{'s' * (count != 1)}"
        if self.splits:
            order = sorted(self.split_sizes, key=[*dict.fromkeys(SPLIT_NAMES.values()), *self.split_sizes].index)
            others = [f"{self.split_sizes[name]:,} in {name}" for name in order if name != self.splits[0]]
            counted += f" in split {self.splits[0]}" + (f" ({', '.join(others)})" if others else "")
        return "; ".join(part for part in (counted, describe_unread(self.found), *self.problems) if part)


def read_folder(place: Path, *, unpacked: Path) -> FolderContents:
    """Find the images of a folder or an archive, with their splits, classes and tables.

    Args:
        place: A folder, or a zip or tar file.
        unpacked: Folder for decompressed copies of compressed tar files.

    Raises:
        ValueError: There are no images; or a damaged archive or table.
        OSError: Something can't be read.
    """
    found = find_files(place, unpacked=unpacked)
    if not found.images:
        why = describe_unread(found) or ("only tables" if found.tables else "it is empty")
        raise ValueError(f"{place} contains no images: {why}. Images end in .jpg, .png, .webp, .pgm ...")
    names = [image.name for image in found.images]
    joined = join_tables(_tables(found, names), names)
    columns = {**_read_sidecars(found), **joined.columns}
    splits, rest = _splits_by_folder(names)
    named = columns.get("split", [])
    if not splits and named and all(isinstance(value, str) for value in named):
        splits = [SPLIT_NAMES.get(str(value).lower(), str(value)) for value in columns.pop("split")]
    parents = [PurePosixPath(name).parent.as_posix() for name in rest]
    classes = _inner_folders(parents) if is_archive(place) or splits else parents
    return FolderContents(found.images, splits, Counter(splits), classes, columns, found, joined.problems)


def list_folder(place: Path, split: str, *, unpacked: Path) -> Listing:
    """List the images of one split of a folder or an archive.

    Raises:
        ValueError: No images, no such split, or a damaged archive or table.
        OSError: Something can't be read.
    """
    contents = read_folder(place, unpacked=unpacked)
    try:
        contents = contents.in_split(split)
    except ValueError as error:
        raise ValueError(f"{place}: {error}.") from error
    images = contents.images
    return Listing(
        count=len(images),
        name=lambda index: str(images[index].content),
        contents=lambda start, stop: [image.content for image in images[start:stop]],
        columns={name: lambda column=column: column for name, column in contents.label_columns().items()},
        identity="\n".join(f"{image.name}\t{image.version}" for image in images),
        digests=lambda tell: content_digests(images, unpacked.parent, progress=tell),
        facts={
            "source": "folder",
            "dataset": place.resolve().name,
            "split": contents.splits[0] if contents.splits else None,
        },
        summary=contents.summary(),
    )


def _tables(found: Found, names: Sequence[str]) -> list[Table]:
    """Read the tables that describe images; the others count as files that are not read.

    Raises:
        ValueError: A table that is named `metadata` has no column of file names, or describes none of the images.
    """
    tables = []
    others = 0
    for file in found.tables:
        if is_metadata(file):
            table = read_table(file)
            if table is None:
                raise ValueError(f"{file.name} has no column file_name with the names of images; rename the column")
            if not count_matches(table, names):
                raise ValueError(
                    f"none of the {len(table.files):,} files that {file.name} names exists; the first is "
                    f"{table.files[0] if table.files else 'missing'}"
                )
            tables.append(table)
            continue
        others += 1
        table = _try_table(file) if others <= _MAX_OTHER_TABLES else None
        if table is not None and count_matches(table, names) >= _MATCHING_SHARE * len(names):
            tables.append(table)
        else:
            found.leave_out(file.name, file.suffix)
    return tables


def _try_table(file: DataFile) -> Table | None:
    try:
        return read_table(file)
    except (ValueError, OSError):
        return None


def _read_sidecars(found: Found) -> dict[str, list[Any]]:
    """Read the classes and attributes that WebDataset stores in a file beside each image; captions are left out."""
    positions = {image.stem: index for index, image in enumerate(found.images)}
    columns: dict[str, list[Any]] = {}
    for file in found.sidecars:
        index = positions[file.stem]
        if file.suffix not in (".cls", ".json"):
            found.leave_out(file.name, f"{file.suffix} captions")
            continue
        text = file.read().decode("utf-8", errors="replace").strip()
        try:
            values = {"class": int(text) if re.fullmatch(r"\d+", text) else text}
            if file.suffix == ".json":
                values = parse_json(text)
        except ValueError as error:
            raise ValueError(f"{file.name} is not JSON: {error}") from error
        if not isinstance(values, dict):
            found.leave_out(file.name, ".json without fields")
            continue
        for name, value in values.items():
            if isinstance(value, bool | int | str):
                columns.setdefault(name, [None] * len(found.images))[index] = value
    return columns


def _splits_by_folder(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Recognize `train`, `validation` and `test` folders: every image is in one, at the top or below one other folder.

    Returns:
        The split of each image, or nothing; and the names inside of the splits, or unchanged.
    """
    inner = _without_common_folder(names)
    parts = [name.split("/", 1) for name in inner]
    if all(len(part) == 2 and part[0].lower() in SPLIT_NAMES for part in parts):
        return [SPLIT_NAMES[part[0].lower()] for part in parts], [part[1] for part in parts]
    return [], list(names)


def _without_common_folder(names: Sequence[str]) -> list[str]:
    """Strip folders that contain all images, unless their name is that of a split."""
    stripped = list(names)
    while stripped:
        tops = {name.partition("/")[0] for name in stripped}
        if len(tops) != 1 or not all("/" in name for name in stripped) or tops.pop().lower() in SPLIT_NAMES:
            break
        stripped = [name.partition("/")[2] for name in stripped]
    return stripped


def _inner_folders(parents: Sequence[str]) -> list[str]:
    """Return the folders of images without those that contain all images; "." for no folder."""
    return [name.rstrip("/") or "." for name in _without_common_folder([f"{parent}/" for parent in parents])]


def _may_be_labels(values: Sequence[Any]) -> bool:
    """Return whether a column may be labels: few enough values, and no numbers with fractions."""
    distinct = {value for value in values if value is not None}
    return bool(distinct) and not any(isinstance(value, float) for value in distinct) and len(distinct) <= MAX_CLASSES
