"""Hashes of weights: every byte counts, and a file is read once for each state that it is found in."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steerkit.bundled import cache_folder

if TYPE_CHECKING:
    from torch import Tensor

_SETTLED: Final = 2_000_000_000
"""Nanoseconds after which a file's times tell a later change from the one before: clocks of file systems are coarse."""


def hash_of_files(paths: Iterable[Path]) -> str | None:
    """One hash for the files that hold a model's weights, ``sha256:…``, or None where there are none.

    Paths and times don't count; bytes, names and sizes do.
    """
    digest = hashlib.sha256()
    files = sorted(paths, key=lambda path: path.name)
    for path in files:
        digest.update(f"{path.name} {path.stat().st_size} {_sha256(path)}\n".encode())
    return f"sha256:{digest.hexdigest()}" if files else None


def hash_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """One hash for small tensors in memory: names, dtypes, shapes and bits."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


def _sha256(path: Path) -> str:
    """sha256 of a file: as remembered of its present state, else read."""
    path = path.resolve()
    before = _state(path)
    note = cache_folder() / "hashes" / hashlib.sha256(str(path).encode()).hexdigest()
    known = _remembered_hash(note, before)
    if known is not None:
        return known
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if _state(path) == before and time.time_ns() - max(before["modified"], before["changed"]) > _SETTLED:
        _remember(note, {**before, "sha256": found})
    return found


def _state(path: Path) -> dict[str, Any]:
    """What differs whenever a file may hold something else."""
    seen = path.stat()
    times = {"modified": seen.st_mtime_ns, "changed": seen.st_ctime_ns}
    return {"path": str(path), "size": seen.st_size, "inode": seen.st_ino, "device": seen.st_dev, **times}


def _remembered_hash(note: Path, state: Mapping[str, Any]) -> str | None:
    try:
        found = json.loads(note.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    known = found.pop("sha256", None) if isinstance(found, dict) else None
    return known if isinstance(known, str) and found == state else None


def _remember(note: Path, found: Mapping[str, Any]) -> None:
    """Write a note, whole or not at all. Where nothing can be written, the file is read again next time."""
    beside = note.with_name(f"{note.name}.{secrets.token_hex(4)}")
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(found), "utf-8")
        os.replace(beside, note)
    except OSError:
        return
