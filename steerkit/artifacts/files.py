"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from steerkit.api.files import write_whole
from steerkit.errors import ArtifactError

__all__ = ["require_folder", "write_whole"]


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
    # What isn't there is made in the nearest folder above that is.
    there = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), folder)
    if not there.is_dir():
        raise ArtifactError(f"Can't write {what} in {folder}: {there} is no folder. {instead}")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise ArtifactError(f"Can't write {what} in {folder}: {error.strerror}. {instead}") from None
