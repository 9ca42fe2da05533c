"""Columns as a frame of pandas, which is used where it is installed and isn't asked for anywhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def frame_or_rows(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Rows as a ``pandas.DataFrame``; where pandas isn't installed, the rows as they are."""
    pandas = _pandas()
    return list(rows) if pandas is None else pandas.DataFrame(list(rows))


def _pandas() -> Any:
    try:
        return import_module("pandas")
    except ImportError:
        return None
