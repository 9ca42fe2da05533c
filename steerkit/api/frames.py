"""Columns as a frame of pandas, which is used where it is installed and isn't asked for anywhere else."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from typing import Any

from steerkit.errors import SteerkitError


def frame_of(columns: Mapping[str, Sequence[Any] | Any], instead: str) -> Any:
    """A ``pandas.DataFrame`` of columns of one length.

    Args:
        columns: by name.
        instead: what gives the same without pandas, at the end of a sentence.

    Raises:
        SteerkitError: where pandas isn't installed.
    """
    pandas = _pandas()
    if pandas is None:
        raise SteerkitError(
            f"A frame is one of pandas, which isn't installed: `pip install pandas`. Without it there is {instead}."
        )
    return pandas.DataFrame(dict(columns))


def frame_or_rows(rows: Sequence[Mapping[str, Any]], numbers: Collection[str] = ()) -> Any:
    """Rows as a ``pandas.DataFrame``; where pandas isn't installed, the rows as they are.

    Args:
        rows: plain values by column.
        numbers: columns of numbers, which are NaN in a frame where there is none: of a column without any number
            pandas can't know that it is one.
    """
    pandas = _pandas()
    if pandas is None:
        return list(rows)
    return pandas.DataFrame(list(rows)).astype({name: float for name in numbers if rows and name in rows[0]})


def _pandas() -> Any:
    try:
        return import_module("pandas")
    except ImportError:
        return None
