"""Directions and conditions in a safetensors file with a JSON header. Nothing in it can execute."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steerkit.api.direction_bytes import (
    HEADER,
    contents_from_bytes,
    directions_to_bytes,
    lost_in_bytes,
    places_in,
    read_header,
)
from steerkit.api.format import Contents, Format, Given, Places, Written
from steerkit.errors import ArtifactError, SteerkitError
from steerkit_formats.steerkit import SteerkitOptions


class SteerkitFormat(Format[SteerkitOptions]):
    """The bytes of ``steerkit.api.direction_bytes`` in a file. Nothing of a condition is lost, and of a
    direction only what float32 rounds."""

    def sniff(self, path: Path) -> bool:
        """Whether the file's header says that it holds directions of steerkit's."""
        metadata = _header(path).get("__metadata__")
        return isinstance(metadata, dict) and HEADER in metadata

    def places(self, path: Path, given: Given = Given()) -> Mapping[str, Places]:
        """Sites, positions, widths and ranks of each direction, from the header alone."""
        try:
            return {name: Places(*places) for name, places in places_in(_header(path)).items()}
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, SteerkitError):
            return {}  # what is wrong is said where the file is read

    def read(self, path: Path, given: Given = Given()) -> Contents:
        """Read what ``write`` gave, by name, in the order in which it was given.

        Raises:
            ArtifactError: where the file is missing, damaged, not steerkit's, of another schema version, or holds NaN
                or infinite values; for a condition that can't be read; where it says another site or other positions
                than are given.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ArtifactError(f"{path} can't be read ({error.strerror}). Check the path.") from None
        return contents_from_bytes(data, str(path), given)

    def write(self, contents: Contents) -> Written:
        """The file's bytes; the same contents give the same ones.

        Raises:
            ArtifactError: for NaN or infinite values, or provenance or options that aren't JSON.
        """
        directions = list(contents.directions.values())
        return Written(directions_to_bytes(directions, contents.condition), lost_in_bytes(directions))


def _header(path: Path) -> Mapping[str, Any]:
    """The header of a safetensors file; nothing for any other file."""
    try:
        return read_header(path)[0] or {}
    except (OSError, ValueError):
        return {}  # what is wrong is said where the file is read
