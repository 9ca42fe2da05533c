"""Files that are written whole or not at all, and what is no file to be read."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

if sys.platform != "win32":
    import fcntl

HALVES: Final = ".*.tmp"
"""What a file is called, as a pattern, while it is written."""


def pipe_fault(path: Path) -> str | None:
    """That a path is of a pipe or a device, which would be waited for and can't be read twice, as a sentence without a
    full stop; None for files, folders and what isn't there."""
    try:
        if path.is_file() or path.is_dir() or not path.exists():
            return None
    except (OSError, ValueError):  # what can't be a path, or be looked at: the reader says so
        return None
    return f"{path} is a pipe or a device, not a file: save what comes from it, and name that"


def write_whole(path: Path, data: bytes) -> None:
    """Write beside the place and move there, so that no reader meets half of a file. Makes the folder if need be.

    Raises:
        OSError: as the system says; the file is then as it was, and nothing is left beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _beside(path) as (beside, file):
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        if sys.platform == "win32":  # which moves no file that is open
            file.close()
        beside.replace(path)


@contextmanager
def _beside(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file beside a place, held as long as the body runs, and removed unless the body has moved it."""
    while True:
        beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        try:
            with beside.open("xb") as file:
                # Who removes halves may have come first, and has then removed it: another one is begun.
                if held(file, wait=True) and not os.fstat(file.fileno()).st_nlink:
                    continue
                yield beside, file
                return
        finally:
            beside.unlink(missing_ok=True)


def held(file: BinaryIO, *, wait: bool) -> bool:
    """Whether this process holds a file now. The system lets it go with the process, however that ends."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by another process, or a file system without locks
        return False
    return True
