"""Folders for weights on disk, one for each model: gone when the model is, or when they are found abandoned."""

from __future__ import annotations

import os
import platform
import re
import secrets
import shutil
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout
from torch import nn

from steerkit.bundled import cache_folder
from steerkit.errors import ModelError
from steerkit.types.placement import DISK

_LOCK: Final = ".lock"
_HELD: Final[dict[Path, FileLock]] = {}
"""Locks beside the folders of this process. The system lets go of them when it ends, however it does."""


def own_folder(within: str | None) -> Path:
    """A new folder for one model's weights: what another model left on disk is never taken for this one's.

    What processes of this machine left there that were killed is removed first: nobody comes back for it.

    Raises:
        ModelError: where none can be made.
    """
    above = cache_folder() / "offload" if within is None else Path(within).expanduser()
    folder = above / f"{_node()}-{os.getpid()}-{secrets.token_hex(6)}"
    lock = FileLock(above / f"{folder.name}{_LOCK}")
    try:
        above.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(above)
        lock.acquire(blocking=False)
        folder.mkdir()
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        hint = "Name an offload_folder that can be written." if within is None else "Name another one."
        raise ModelError(f"Weights on disk can't be kept in {above} ({why}). {hint}") from error
    _HELD[folder] = lock
    return folder


def remove_with(model: nn.Module | None, folder: Path) -> None:
    """Remove a folder when a model is gone, or now where nothing of the model lies in it."""
    if model is not None and DISK in getattr(model, "hf_device_map", {}).values():
        weakref.finalize(model, remove, folder)
    else:
        remove(folder)


def remove(folder: Path) -> None:
    """Remove a folder of this process."""
    shutil.rmtree(folder, ignore_errors=True)
    lock = _HELD.pop(folder, None)
    if lock is not None:
        lock.release()
    with suppress(OSError):
        folder.with_name(f"{folder.name}{_LOCK}").unlink(missing_ok=True)


def _remove_abandoned(above: Path) -> None:
    """Remove what this machine's processes left that no longer run: locks of other machines may not be seen here."""
    ours = re.compile(rf"{re.escape(_node())}-\d+-[0-9a-f]{{12}}{re.escape(_LOCK)}")
    for path in [one for one in above.iterdir() if ours.fullmatch(one.name)]:
        lock = FileLock(path)
        with suppress(OSError):  # another user's, perhaps
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            remove(path.with_name(path.name.removesuffix(_LOCK)))
            lock.release()


def _node() -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", platform.node()) or "here"
