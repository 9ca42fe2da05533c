"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from steerkit.api.files import HALVES, held, write_whole
from steerkit.errors import ArtifactError

__all__ = ["discard", "remove_halves", "require_file", "require_folder", "shown_path", "write_folder", "write_whole"]

LONGEST_SHOWN: Final = 160


def remove_halves(folder: Path, pattern: str = HALVES, *, deep: bool = True) -> int:
    """Remove what processes that were killed were writing in a folder; what one is writing now is left alone.

    Args:
        folder: which one; there may be none.
        pattern: what such files are called.
        deep: in the folders below it as well.

    Returns:
        how many files were removed.
    """
    removed = 0
    for half in list(folder.rglob(pattern) if deep else folder.glob(pattern)):
        with suppress(OSError):  # another user's, perhaps, or gone by now
            if sys.platform == "win32":
                half.unlink()  # fails where a process has it open
                removed += 1
                continue
            with half.open("rb") as file:
                if held(file, wait=False):
                    half.unlink()
                    removed += 1
    return removed


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder of files beside its place and move it there, in the place of an older one.

    Raises:
        OSError: as the system says; the folder is then as it was, and nothing is left beside it.
    """
    path = Path(os.path.abspath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    beside, aside = (path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp") for _ in range(2))
    try:
        beside.mkdir()
        for name, data in files.items():
            write_whole(beside / name, data)
        if path.exists():
            path.rename(aside)
        try:
            beside.rename(path)
        except OSError:
            if aside.exists():
                aside.rename(path)
            raise
    finally:
        discard(beside)
        discard(aside)


def discard(path: Path) -> None:
    """Remove what can't be used, a file or a folder; where it can't be removed, it stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink(missing_ok=True)


def require_file(path: str | Path, what: str, instead: str) -> None:
    """As ``require_folder``, for a file that is to be written.

    Raises:
        ArtifactError: where it can't be, or where the path is that of a folder, as an empty text is.
    """
    if not str(path).strip() or os.path.isdir(path):
        named = f"{path} is a folder" if str(path).strip() else "an empty text names no file"
        raise ArtifactError(f"Can't write {what}: {named}. {instead}")
    _require_path(Path(path), what, instead)
    require_folder(Path(path).parent, what, instead)


def require_folder(folder: Path, what: str, instead: str) -> None:
    """Find out, before any work, whether files can be made in a folder that is there or is yet to be made.

    Nothing is left behind, and no folder is made. Permissions and read-only file systems are found by trying.

    Args:
        folder: which one.
        what: is to be written there, as in "run directories".
        instead: what to do where it can't be, a sentence.

    Raises:
        ArtifactError: where it can't.
    """
    _require_path(folder, what, instead)
    # What isn't there is made in the nearest folder above that is.
    there = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), folder)
    if not there.is_dir():
        raise ArtifactError(f"Can't write {what} in {folder}: {there} is no folder. {instead}")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise ArtifactError(f"Can't write {what} in {folder}: {error.strerror}. {instead}") from None


def _require_path(path: Path, what: str, instead: str) -> None:
    """Find out whether anything can have this path: its names may be too long, or lead in circles."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # which is no matter of the path
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ArtifactError(f"Can't write {what} to {shown_path(path)}: {why}. {instead}") from None


def shown_path(path: str | Path) -> str:
    """A path for a message, which none makes longer than a line or two."""
    text = str(path)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"
