"""Files of safety-research/assistant-axis: the axis, vectors of roles, and vectors that are capped.

Read in that repository: ``assistant_axis/axis.py`` and ``pipeline/5_axis.py`` (the axis, ``[layers, width]``, alone or
as ``axis`` of a mapping), ``pipeline/4_vectors.py`` (vectors of roles), ``assistant_axis/steering.py`` (they are added
to blocks' outputs; the layout of capping settings) and ``assistant_axis/internals/activations.py`` (where they are
read).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from steerkit.api.format import Contents, Format, Given, Places
from steerkit.errors import ArtifactError
from steerkit.types import Positions, Site
from steerkit_formats._common import Reading, places_at
from steerkit_formats._torch_file import TensorOutline, has_keys, is_matrix, load, sniffed
from steerkit_formats.assistant_axis import AssistantAxisOptions

_RESPONSE: Final = Positions("completion")


class AssistantAxisFormat(Format[AssistantAxisOptions]):
    """One direction at the outputs of all blocks; of capping settings, a direction at one block for each vector."""

    def sniff(self, path: Path) -> bool:
        """Whether a file holds what the repository's mappings hold, or a matrix and is called an axis."""
        held = sniffed(path)
        known = has_keys(held, ("axis",)) or has_keys(held, ("vector", "role")) or _is_capping(held)
        return (known or "axis" in path.stem.lower()) and self.accepts(path)

    def accepts(self, path: Path) -> bool:
        """Whether a file holds a matrix, alone or in such a mapping."""
        held = sniffed(path)
        return _is_capping(held) or is_matrix(_matrix_of(held), 2)

    def places(self, path: Path, given: Given = Given()) -> Mapping[str, Places]:
        """Sites and widths."""
        held = sniffed(path)
        try:
            found = _found(held, path)
        except (ValueError, TypeError, KeyError, ArtifactError):
            return {}
        if not all(isinstance(value, TensorOutline) for vectors in found.values() for value in vectors.values()):
            return {}
        return {
            name: places_at(list(vectors), [value.shape for value in vectors.values()], _RESPONSE)
            for name, vectors in found.items()
        }

    def read(self, path: Path, given: Given = Given()) -> Contents:
        """Read the axis, the vector of a role, or those of capping settings.

        Raises:
            ArtifactError: where the file is missing, damaged or something else, or holds NaN or infinite values; where
                other sites or positions are given.
        """
        held = load(path)
        if not self.accepts(path):
            raise ArtifactError(
                f"{path} holds no tensor of shape [layers, width], by itself, as 'axis' or as 'vector'. Name another "
                "format."
            )
        reading = Reading(path, given, "assistant_axis")
        if _is_capping(held):
            reading.lost.append("The thresholds of its experiments aren't read, for which steerkit has no place.")
        for name, vectors in _found(held, path).items():
            reading.add(name, vectors, _RESPONSE)
        return reading.contents()


def _matrix_of(held: Any) -> Any:
    if isinstance(held, dict):
        return held.get("axis", held.get("vector"))
    return held


def _is_capping(held: Any) -> bool:
    vectors = held.get("vectors") if isinstance(held, dict) and "experiments" in held else None
    return isinstance(vectors, dict) and all(has_keys(one, ("layer", "vector")) for one in vectors.values())


def _found(held: Any, path: Path) -> dict[str, dict[Site, Any]]:
    """Vectors by site and name, of a file's values or of their outlines."""
    if _is_capping(held):
        found: dict[str, dict[Site, Any]] = {}
        for name, one in held["vectors"].items():
            if not isinstance(one["layer"], int) or isinstance(one["layer"], bool) or one["layer"] < 0:
                raise ArtifactError(f"{path}: vector {name!r} says layer {one['layer']!r}, which is no block's number.")
            found[str(name)] = {Site("resid_post", one["layer"]): one["vector"]}
        return found
    matrix = _matrix_of(held)
    outlined = isinstance(matrix, TensorOutline)
    rows = [TensorOutline(matrix.shape[1:], matrix.dtype)] * matrix.shape[0] if outlined else matrix
    role = held.get("role") if isinstance(held, dict) else None
    name = role if isinstance(role, str) and role else path.stem
    return {name: {Site("resid_post", layer): row for layer, row in enumerate(rows)}}
