"""Making a store smaller: outputs that were not used for long, and the least recently used beyond a size.

Nothing but entries of a store is touched, and halves that killed processes left there. A run directory needs none of
them to be read. An unfinished run goes on with those that it has made or read, so these stay as long as it is there.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG
from typing import Final

from steerkit.artifacts.files import shown_path
from steerkit.artifacts.rundir import DIGEST, STAGES
from steerkit.artifacts.store import Store
from steerkit.errors import ArtifactError

_FOLDER: Final = re.compile(r"[0-9a-f]{2}")
_BEGAN: Final = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class StoredOutput:
    """An entry of a store.

    Args:
        path: the file.
        size: in bytes.
        used: when it was written or last read, in seconds since 1970.
    """

    path: Path
    size: int
    used: float


@dataclass(frozen=True)
class Cleaned:
    """What became of a store.

    Args:
        folder: the store.
        before: its outputs as they were, the one that was used longest ago first.
        removed: those that were removed.
        held: those that would have been, and stay for unfinished runs.
        unfinished: directories of these runs.
        halves: how many files went that killed processes left there.
    """

    folder: Path
    before: tuple[StoredOutput, ...]
    removed: tuple[StoredOutput, ...]
    held: tuple[StoredOutput, ...]
    unfinished: tuple[Path, ...]
    halves: int


def clean_store(
    folder: Path,
    runs: Iterable[Path] = (),
    *,
    older_than: float | None = None,
    at_most: float | None = None,
    dry: bool = False,
) -> Cleaned:
    """Remove outputs from a store: first those that are too old, then the least recently used, until it is small.

    Other processes may use the store meanwhile: what they don't find, they compute.

    Args:
        folder: the store.
        runs: folders with run directories, among which unfinished ones are looked for.
        older_than: seconds; what was not used for so long goes. None for no limit.
        at_most: bytes that all outputs may take together. None for no limit.
        dry: look only, and remove nothing.

    Raises:
        ArtifactError: where there is no such folder, or something in it can't be removed.
    """
    if not os.path.isdir(folder):  # False of what no path can be
        raise ArtifactError(
            f"There is no store in {shown_path(folder)}. Name one with --store, or the folder of runs with --out."
        )
    outputs = tuple(sorted(_outputs(folder), key=lambda one: (one.used, one.path.name)))
    unfinished = tuple(path for path in dict.fromkeys(runs) for path in _unfinished(path))
    since = min(map(_began, unfinished), default=float("inf"))
    now, left = time.time(), sum(one.size for one in outputs)
    removed, held = [], []
    for one in outputs:
        old = older_than is not None and now - one.used > older_than
        if not old and (at_most is None or left <= at_most):
            continue
        if one.used >= since:
            held.append(one)
        else:
            removed.append(one)
            left -= one.size
    halves = 0
    if not dry:
        _remove(removed)
        halves = Store(folder).remove_halves()
    return Cleaned(folder, outputs, tuple(removed), tuple(held), unfinished, halves)


def _outputs(folder: Path) -> Iterator[StoredOutput]:
    """The entries of a store: whatever else lies there, or leads elsewhere, is nobody's to remove."""
    for below in folder.iterdir():
        if not _FOLDER.fullmatch(below.name) or below.is_symlink() or not below.is_dir():
            continue
        for path in below.iterdir():
            if re.fullmatch(rf"{below.name}[0-9a-f]{{62}}", path.name):
                with suppress(FileNotFoundError):
                    seen = path.lstat()
                    if S_ISREG(seen.st_mode):
                        yield StoredOutput(path, seen.st_size, seen.st_mtime)


def _unfinished(runs: Path) -> list[Path]:
    return sorted(mark.parent.parent for mark in runs.glob(f"*/{STAGES}/{DIGEST}"))


def _began(run: Path) -> float:
    """When a run directory was begun, in whole seconds since 1970; the beginning of time where its name doesn't say."""
    try:
        return datetime.strptime(run.name[:16], _BEGAN).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0


def _remove(outputs: Iterable[StoredOutput]) -> None:
    for one in outputs:
        try:
            one.path.unlink(missing_ok=True)
        except OSError as error:
            raise ArtifactError(f"Can't remove {one.path}: {error.strerror}. Check the permissions of it.") from None
