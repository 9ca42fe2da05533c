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
    try:
        pandas: Any = import_module("pandas")
    except ImportError:
        raise SteerkitError(
            f"A frame is one of pandas, which isn't installed: `pip install pandas`. Without it there is {instead}."
        ) from None
    return pandas.DataFrame(dict(columns))
