"""Read tables that describe the images of a folder: `metadata.csv`, `.jsonl` or `.parquet`, and CelebA's."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from fagan_hf.data.files import DataFile
from fagan_hf.utils.json_text import parse_json

MAX_TABLE_BYTES = 1 << 30
FILE_COLUMNS = ("file_name", "filename", "file", "image_file", "image_id", "image", "img", "path", "id")
_CELEBA_SPLITS = {0: "train", 1: "validation", 2: "test"}


@dataclass(frozen=True)
class Table:
    """A table whose rows describe images.

    Args:
        name: Of its file, for messages.
        folder: Of its file: names of images are relative to it.
        files: The image that each row describes, as written in the table.
        columns: Values of the other columns by name; `None` where a row has none.
    """

    name: str
    folder: str
    files: list[str]
    columns: dict[str, list[Any]]


@dataclass(frozen=True)
class Joined:
    """The values of tables for each image.

    Attributes:
        columns: Values by column name, one for each image; `None` if no row describes it.
        problems: Sentences for the user about rows without an image.
    """

    columns: dict[str, list[Any]]
    problems: list[str]


def is_metadata(file: DataFile) -> bool:
    """Return whether the name of a file says that it describes the images beside it."""
    return PurePosixPath(file.name).stem.lower() == "metadata" or _is_celeba(file)


def read_table(file: DataFile) -> Table | None:
    """Read a table of images.

    Returns:
        The table, or `None` if it has no column of file names.

    Raises:
        ValueError: It can't be parsed.
        OSError: It can't be read.
    """
    content = file.read()
    if len(content) > MAX_TABLE_BYTES:
        raise ValueError(f"{file.name} has {len(content):,} bytes; tables of up to {MAX_TABLE_BYTES:,} are read")
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet, ".txt": _read_celeba}
    try:
        columns = readers[file.suffix](content)
    except (
        ValueError,
        KeyError,
        IndexError,
        csv.Error,
    ) as error:
        raise ValueError(f"{file.name} can't be parsed as a table: {error}") from error
    lower = {name.lower(): name for name in columns}
    named = next((lower[name] for name in FILE_COLUMNS if name in lower), None)
    if named is None or not all(isinstance(value, str | int) for value in columns[named]):
        return None
    files = [str(value) for value in columns.pop(named)]
    if "partition" in columns and _is_celeba(file):
        columns["split"] = [_CELEBA_SPLITS.get(value, value) for value in columns.pop("partition")]
    return Table(file.name, file.name.rpartition("/")[0], files, columns)


def join_tables(tables: Sequence[Table], names: Sequence[str], *, missing_named: int = 3) -> Joined:
    """Find for each image the row that describes it.

    A table names its images relative to its own folder, or by the last part of their path if that is unambiguous; the
    suffix may be missing.

    Args:
        tables: Tables with rows for the images.
        names: Names of all images, relative to the dataset.
        missing_named: Number of missing files that a problem names.
    """
    columns: dict[str, list[Any]] = {}
    problems = []
    exact = {name: index for index, name in enumerate(names)}
    last = _unambiguous([PurePosixPath(name).name for name in names])
    stems = _unambiguous([PurePosixPath(name).stem for name in names])
    for table in tables:
        prefix = f"{table.folder}/" if table.folder else ""
        missing = []
        for row, file in enumerate(table.files):
            path = file.replace("\\", "/").removeprefix("./")
            index = exact.get(prefix + path, last.get(PurePosixPath(path).name, stems.get(PurePosixPath(path).name)))
            if index is None:
                missing.append(file)
                continue
            for name, values in table.columns.items():
                columns.setdefault(name, [None] * len(names))[index] = values[row]
        if missing:
            shown = ", ".join(missing[:missing_named]) + (" ..." if len(missing) > missing_named else "")
            problems.append(
                f"{len(missing):,} of {len(table.files):,} rows of {table.name} name missing files: {shown}"
            )
    return Joined(columns, problems)


def count_matches(table: Table, names: Sequence[str]) -> int:
    """Return how many images a table describes."""
    joined = join_tables([Table(table.name, table.folder, table.files, {"row": [True] * len(table.files)})], names)
    return sum(value is not None for value in joined.columns.get("row", []))


def _unambiguous(parts: Sequence[str]) -> dict[str, int]:
    """Return the position of each name that occurs once."""
    found: dict[str, int] = {}
    repeated = set()
    for index, part in enumerate(parts):
        if part in found:
            repeated.add(part)
        found[part] = index
    return {part: index for part, index in found.items() if part not in repeated}


def _is_celeba(file: DataFile) -> bool:
    name = PurePosixPath(file.name).name.lower()
    return name.startswith(("list_attr_celeba.", "list_eval_partition."))


def _read_csv(content: bytes) -> dict[str, list[Any]]:
    text = content.decode("utf-8-sig")
    first_line = text.partition("\n")[0]
    delimiter = max(",;\t", key=first_line.count)
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if row]
    return _columns(rows[0], rows[1:])


def _read_celeba(content: bytes) -> dict[str, list[Any]]:
    """Read CelebA's own format: the number of rows, the names of the attributes, then a line for each image."""
    lines = [line.split() for line in content.decode("utf-8-sig").splitlines() if line.strip()]
    if lines[0][0].isdecimal() and len(lines[0]) == 1:
        return _columns(["image_id", *lines[1]], lines[2:])
    if all(len(line) == 2 for line in lines) and "." in lines[0][0]:  # list_eval_partition.txt
        return _columns(["image_id", "partition"], lines)
    return {}  # any other text


def _read_jsonl(content: bytes) -> dict[str, list[Any]]:
    rows = [parse_json(line) for line in content.decode("utf-8").splitlines() if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("each line must be a JSON object")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [_scalar(row.get(name)) for row in rows] for name in names}


def _read_parquet(content: bytes) -> dict[str, list[Any]]:
    import pyarrow.parquet
    from pyarrow import types

    schema = pyarrow.parquet.read_schema(io.BytesIO(content))
    kept = [field.name for field in schema if not types.is_nested(field.type) and not types.is_binary(field.type)]
    table = pyarrow.parquet.read_table(io.BytesIO(content), columns=kept)
    return {name: [_scalar(value) for value in table[name].to_pylist()] for name in kept}


def _columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, list[Any]]:
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise ValueError(f"line {number} has {len(row)} values for {len(header)} columns")
    return {name: _typed([row[index] for row in rows]) for index, name in enumerate(header)}


def _typed(texts: list[str]) -> list[Any]:
    """Convert the texts of a column to bools or ints if all of them are; empty ones are missing."""
    given = {text for text in texts if text != ""}
    lower = {text.lower() for text in given}
    if lower and lower <= {"true", "false"}:
        return [text.lower() == "true" if text else None for text in texts]
    # Not 007: leading zeros belong to a name.
    if given and all(text.lstrip("-").isdecimal() and str(int(text)) == text for text in given):
        return [int(text) if text else None for text in texts]
    return [text or None for text in texts]


def _scalar(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else None
