"""The folder that a checkpoint is written to: whole in its place, or not at all."""

from __future__ import annotations

import errno
import glob
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from steerkit.errors import ArtifactError

_LOCK: Final = ".lock"
"""Held as long as somebody writes. Whoever meets it free in a folder that isn't whole knows that nobody does."""


@contextmanager
def written(out: Path) -> Iterator[Path]:
    """A folder beside the place, which is moved there when the body ends well, and removed otherwise.

    Args:
        out: the place; nothing is there, or an empty folder.

    Raises:
        ArtifactError: where it can't be written.
        OSError: where the disk is full.
    """
    out = out.resolve()
    made = [parent for parent in (out.parent, *out.parent.parents) if not parent.exists()]
    beside = out.parent / f".{out.name}.{secrets.token_hex(4)}.tmp"
    lock = FileLock(beside / _LOCK)
    whole = False
    try:
        beside.mkdir(parents=True)
        lock.acquire(blocking=False)
        yield beside
        if out.is_dir():
            out.rmdir()
        # Still held where a system lets a held file go, so that nobody takes what is whole for abandoned.
        with suppress(PermissionError):
            (beside / _LOCK).unlink(missing_ok=True)
        lock.release()
        (beside / _LOCK).unlink(missing_ok=True)
        beside.replace(out)
        whole = True
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ArtifactError(f"{out} can't be written ({error.strerror}). Name another folder with --out.") from None
    finally:
        if not whole:
            lock.release()
            shutil.rmtree(beside, ignore_errors=True)
            for parent in made:
                with suppress(OSError):
                    parent.rmdir()


def remove_abandoned(out: Path) -> None:
    """Remove what a process that was killed left beside the place: nobody comes back for it, and it is large."""
    out = out.resolve()
    for left in out.parent.glob(f".{glob.escape(out.name)}.????????.tmp"):
        if not (left / _LOCK).is_file():
            continue
        lock = FileLock(left / _LOCK)
        with suppress(OSError):  # another user's, perhaps
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            shutil.rmtree(left, ignore_errors=True)
            lock.release()
