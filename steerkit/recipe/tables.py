"""Files and hub data sets to numbered rows. One reader per format; a damaged file names its row."""

from __future__ import annotations

import csv
import importlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from steerkit.api.files import pipe_fault
from steerkit.errors import DataError, counted, nearest
from steerkit.types.json_text import RepeatedKeyError, read_json


@dataclass(frozen=True)
class Row:
    """A row of a file.

    Args:
        number: where it stands, counted from 1: the line of JSONL and text files, else the record.
        value: a text, or a mapping from field to value.
    """

    number: int
    value: Any


def read_table(path: Path) -> list[Row]:
    """Read a file by its ending.

    Raises:
        DataError: where it isn't there, has another ending, isn't UTF-8, or is damaged.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path.name} has an unknown ending. {nearest(path.suffix, _READERS, 'ending')}")
    if path.is_dir():
        raise DataError(f"{path} is a folder, not a file.")
    if (fault := pipe_fault(path)) is not None:
        raise DataError(f"{fault}.")
    if not path.exists():
        if not path.parent.is_dir():
            raise DataError(f"there is no file {path}. Its folder isn't there either.")
        there = [item.name for item in path.parent.iterdir() if item.suffix.lower() in _READERS and item.is_file()]
        raise DataError(f"there is no file {path}. {nearest(path.name, there, 'data file')}")
    try:
        return list(reader(path))
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    except OSError as error:
        raise DataError(f"{path.name} can't be read: {error.strerror or error}.") from error


def _jsonl(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_read(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield Row(number, read_json(line))
        except RepeatedKeyError as error:
            raise DataError(f"{path.name}, row {number}: {error}. Keep one, or give them two names.") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path.name}, row {number} is not JSON{_why(error)}.") from error


def _json(path: Path) -> Iterator[Row]:
    text = _read(path)
    try:
        value = read_json(text)
    except RepeatedKeyError as error:
        raise DataError(f"{path.name}: {error}. Keep one, or give them two names.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path.name} is not JSON{_why(error)}.") from error
    if not isinstance(value, list):
        raise DataError(f"{path.name} must hold a list of texts or of objects, not a JSON {type(value).__name__}.")
    yield from (Row(number, item) for number, item in enumerate(value, 1))


def _why(error: Exception) -> str:
    if isinstance(error, (json.JSONDecodeError, RecursionError)):
        return f": {error}"
    return " that can be read: a number in it has too many digits"


def _csv(path: Path) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(_read(path), newline=""), strict=True)
    try:
        lines = (line for line in reader if line)
        header = next(lines, [])
        _require_each_once(header, path)
        for number, line in enumerate(lines, 1):
            if len(line) != len(header):
                wanted = counted(len(header), "column")
                raise DataError(f"{path.name}, row {number} doesn't have {wanted} like the header.")
            unnamed = [cell for name, cell in zip(header, line, strict=True) if not name]
            if len(unnamed) > 1 and any(unnamed):
                raise DataError(f"{path.name}, row {number} has text in columns that have no name: name them.")
            yield Row(number, dict(zip(header, line, strict=True)))
    except csv.Error as error:
        raise DataError(f"{path.name}, line {reader.line_num} is not CSV: {error}.") from error


def _text(path: Path) -> Iterator[Row]:
    lines = _read(path).replace("\r\n", "\n").rstrip("\n").split("\n")
    yield from (Row(number, line) for number, line in enumerate(lines, 1) if lines != [""])


def _parquet(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import parquet
        from pyarrow.lib import ArrowException
    except ImportError as error:
        raise DataError(f"{path.name}: Parquet needs the package pyarrow, which isn't installed.") from error
    try:
        _require_each_once(parquet.read_schema(path).names, path)
        records = parquet.read_table(path).to_pylist()
    except (ArrowException, ValueError) as error:  # the latter of a field that comes twice within a column
        raise DataError(f"{path.name} is not a Parquet file that can be read: {error}") from error
    yield from (Row(number, record) for number, record in enumerate(records, 1))


def _require_each_once(names: Sequence[str], path: Path) -> None:
    """Raise ``DataError`` where two columns have one name; many a spreadsheet ends in some without any."""
    twice = next((name for name, number in Counter(names).items() if name and number > 1), None)
    if twice is not None:
        raise DataError(f"{path.name} has the column {twice!r} twice in its header. Keep one, or give them two names.")


def _read(path: Path) -> str:
    # utf-8-sig: spreadsheets write a byte order mark. newline="": a quoted CSV field keeps its own.
    with path.open(encoding="utf-8-sig", newline="") as file:
        return file.read()


_READERS: Final[Mapping[str, Callable[[Path], Iterator[Row]]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
    ".txt": _text,
}


def read_hub(name: str, config: str | None, split: str) -> list[Row]:
    """Read a split of a hub data set through the package ``datasets``, where it is installed.

    Raises:
        DataError: where the package, the hub or the data set can't be reached.
    """
    advice = "Where no hub is reachable, save the texts to a file and name it with `file:`."
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(
            f"hub data set {name!r} needs the package `datasets`, which isn't installed. {advice}"
        ) from error
    try:
        found = datasets.load_dataset(name, config, split=split)
        return [Row(number, dict(record)) for number, record in enumerate(found, 1)]
    except Exception as error:
        # The package raises a dozen types, from network errors to a misspelt split; all of them are the user's news.
        what = " ".join(str(error).split())
        raise DataError(f"hub data set {name!r} can't be read: {type(error).__name__}: {what} {advice}") from error
