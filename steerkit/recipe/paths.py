"""Paths as recipes and command lines write them, and which model sources are paths."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from steerkit.bundled import BUNDLED
from steerkit.errors import SteerkitError
from steerkit.sources import TINY

_SHOWN: Final = 60


def readable_path(text: str, folder: Path | None = None) -> Path:
    """A path that the system can look for; whether anything is there is for the reader to say.

    Args:
        text: as written; ``~`` is the home directory.
        folder: where a relative path starts; the current one where None.

    Raises:
        SteerkitError: where no file can have this path.
    """
    shown = repr(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}...")
    try:
        path = (folder or Path()) / Path(text).expanduser()
    except RuntimeError as error:
        raise SteerkitError(f"{shown}: there is no such home directory; write the path in full") from error
    if any("\ud800" <= letter <= "\udfff" for letter in str(path)):
        # The system may well have it, but it can't be noted in a run's files, which are UTF-8.
        raise SteerkitError(f"{shown} can't be a path (its name is no UTF-8 text); write another one")
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except (OSError, ValueError) as error:
        why = (getattr(error, "strerror", None) or str(error)).lower()
        raise SteerkitError(f"{shown} can't be a path ({why}); write another one") from error
    return path


def local_model(source: str) -> Path | None:
    """The file or folder on this machine that a model's source names, or None.

    Raises:
        SteerkitError: where the source can't be a path; a name on the hub could be one.
    """
    if source.startswith(TINY) or source in BUNDLED:
        return None
    path = readable_path(source)
    return path if path.is_dir() or path.is_file() else None
