"""One direction and its file, in steerkit's own format. Several, and other formats, are ``save_directions``'."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from steerkit.api.files import write_whole
from steerkit.api.showing import a_kind
from steerkit.errors import ArtifactError, UnknownNameError, counted, nearest

if TYPE_CHECKING:
    from steerkit.api.direction import Direction

SUFFIX: Final = ".safetensors"


def save(direction: Direction, path: str | Path) -> None:
    """See ``Direction.save``."""
    from steerkit.api.direction_bytes import directions_to_bytes

    where = _path(path, "direction.save(path)")
    if where.suffix.lower() != SUFFIX:
        raise ArtifactError(
            f"{where}: a direction is saved as safetensors, so its file is called {where.stem or 'direction'}{SUFFIX}. "
            "steerkit.save_directions(path, [direction], format=...) writes other formats."
        )
    try:
        write_whole(where, directions_to_bytes([direction]))
    except ArtifactError as error:
        raise ArtifactError(f"{where}: {error}") from None
    except OSError as error:
        raise ArtifactError(f"{where} can't be written ({error.strerror}). Choose another folder.") from None


def load(path: str | Path, name: str | None = None) -> Direction:
    """See ``Direction.load``."""
    from steerkit.api.direction_bytes import directions_from_bytes

    where = _path(path, "Direction.load(path, name)")
    if not os.path.isfile(where):  # False of what no path can be
        if isinstance(name, str) and name.endswith(SUFFIX):
            raise ArtifactError(f"Direction.load takes the file first: Direction.load({name!r}, {str(path)!r}).")
        problem = "is no file that can be read" if os.path.exists(where) else "isn't there"
        raise ArtifactError(f"{where} {problem}. Check the path.")
    try:
        data = where.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{where} can't be read ({error.strerror}). Check the path.") from None
    try:
        found = directions_from_bytes(data, str(where))
    except ArtifactError as error:
        other = "" if where.suffix == SUFFIX else " steerkit.load_directions(path) reads other formats."
        raise ArtifactError(f"{error}{other}") from None
    if name is not None and name not in found:
        raise UnknownNameError(f"{where} has no direction {name!r}. {nearest(name, found, 'direction')}")
    if name is None and len(found) != 1:
        listed = ", ".join(map(repr, found)) or "none"
        raise ArtifactError(
            f"{where} holds {counted(len(found), 'direction')} ({listed}). Say which: Direction.load(path, name). "
            "steerkit.load_directions(path) gives all of them by name."
        )
    return next(iter(found.values())) if name is None else found[name]


def _path(path: object, call: str) -> Path:
    if not isinstance(path, (str, Path)):
        raise ArtifactError(f"A direction's file is named by its path, {call}, not by {a_kind(path)}.")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ArtifactError(f"{str(path)!r} can't be a path: it holds half of a surrogate pair.") from None
    return Path(path)
