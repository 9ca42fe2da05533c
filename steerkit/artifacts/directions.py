"""Directions on disk: a safetensors file with a JSON header. Nothing in it can execute."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.api.direction import Direction
from steerkit.artifacts.files import write_whole
from steerkit.errors import ArtifactError, SteerkitError
from steerkit.types import Positions, Site

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA_VERSION = 1
# One key: safetensors writes several in an order that differs from process to process.
HEADER = "steerkit.directions"
VECTORS, REFERENCE_MEAN = "vectors", "reference_mean"


def save_directions(path: str | Path, directions: Sequence[Direction]) -> None:
    """Write directions to one file, whole or not at all; the same directions give the same bytes.

    The file holds ``<name>.vectors`` ``[rank, d_model]`` and, where known, ``<name>.reference_mean``
    ``[d_model]``, both float32; its header holds site, positions and provenance.

    Args:
        path: the file, which ends in ``.safetensors``; an older one is replaced.
        directions: at least one, with names that differ.

    Raises:
        ArtifactError: for two directions of one name, NaN or infinite values, provenance that isn't
            JSON, or a folder that can't be written to.
    """
    path = Path(path)
    _write(path, directions_to_bytes(directions, path))


def directions_to_bytes(directions: Sequence[Direction], path: Path = Path("directions")) -> bytes:
    """What ``save_directions`` writes; ``path`` is named in errors."""
    from safetensors.torch import save

    names = [direction.name for direction in directions]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated or not names:
        problem = f"two directions are called {repeated[0]!r}" if repeated else "there is no direction to save"
        raise ArtifactError(f"{path}: {problem}. Give each direction a name of its own.")
    for direction in directions:
        _check(direction, path)
    tensors = {key: value for direction in directions for key, value in _tensors(direction).items()}
    header = {"schema_version": SCHEMA_VERSION, "directions": [_entry(direction) for direction in directions]}
    try:
        text = json.dumps(header, sort_keys=True, allow_nan=False, ensure_ascii=True)
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: provenance may hold JSON values only ({error}).") from None
    return save(tensors, metadata={HEADER: text})


def load_directions(path: str | Path) -> dict[str, Direction]:
    """Read what ``save_directions`` wrote, by name, in the order in which it was given.

    Raises:
        ArtifactError: where the file is missing, damaged, not steerkit's, of another schema version,
            or holds NaN or infinite values.
    """
    path = Path(path)
    return directions_from_bytes(_read(path), path)


def directions_from_bytes(data: bytes, path: Path = Path("directions")) -> dict[str, Direction]:
    """Read what ``directions_to_bytes`` gave; ``path`` is named in errors."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
        # safetensors has checked the header's length and form by now, but doesn't hand out its metadata from bytes.
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"{path} {_unreadable(data, error)}") from None
    if HEADER not in metadata:
        raise ArtifactError(
            f"{path} is a safetensors file, but holds no directions of steerkit's (its header lacks {HEADER!r}). "
            "Write it with save_directions."
        )
    found = [_direction(entry, tensors, path) for entry in _entries(metadata[HEADER], path)]
    return {direction.name: direction for direction in found}


def _tensors(direction: Direction) -> dict[str, Tensor]:
    import torch

    found = {VECTORS: direction.vectors, REFERENCE_MEAN: direction.reference_mean}
    kept = {}
    for part, value in found.items():
        if value is not None:
            # Contiguous and its own memory: safetensors refuses views that share it.
            kept[f"{direction.name}.{part}"] = value.detach().to("cpu", torch.float32, copy=True).contiguous()
    return kept


def _entry(direction: Direction) -> dict[str, Any]:
    return {
        "name": direction.name,
        "site": str(direction.site),
        "positions": str(direction.positions),
        "provenance": dict(direction.provenance),
    }


def _entries(text: str, path: Path) -> list[Mapping[str, Any]]:
    try:
        header = json.loads(text)
        version, entries = header["schema_version"], header["directions"]
    except (ValueError, KeyError, TypeError):
        raise ArtifactError(
            f"{path} is damaged: its header can't be read. Get a whole copy, or make it again."
        ) from None
    if version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path} has schema version {version!r}, and this steerkit reads version {SCHEMA_VERSION}. "
            "Read it with the steerkit that wrote it, or make it again."
        )
    if not isinstance(entries, list):
        raise ArtifactError(f"{path} is damaged: its header lists no directions. Get a whole copy, or make it again.")
    return entries


def _direction(entry: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> Direction:
    try:
        name = str(entry["name"])
        vectors, reference = tensors[f"{name}.{VECTORS}"], tensors.get(f"{name}.{REFERENCE_MEAN}")
        site, positions = Site.parse(entry["site"]), Positions.parse(entry["positions"])
        direction = Direction(vectors, site, positions, name, reference, dict(entry["provenance"]))
    except (KeyError, TypeError, ValueError, SteerkitError) as error:
        raise ArtifactError(f"{path} is damaged: a direction in it can't be read ({error}). Make it again.") from None
    _check(direction, path)
    return direction


def _check(direction: Direction, path: Path) -> None:
    vectors, reference = direction.vectors, direction.reference_mean
    for part, value in ((VECTORS, vectors), (REFERENCE_MEAN, reference)):
        # As written, in float32; a sum of those in float64 is finite only if each of them is.
        if value is not None and not math.isfinite(float(value.detach().float().double().sum())):
            raise ArtifactError(
                f"{path}: {direction.name}.{part} holds NaN or infinite values, which are no direction. "
                "Estimate it again."
            )
    if reference is not None and reference.shape != vectors.shape[1:]:
        raise ArtifactError(
            f"{path}: {direction.name}.{REFERENCE_MEAN} has shape {list(reference.shape)}, and the vectors have "
            f"{list(vectors.shape)}; the two are of one width. Estimate the direction again."
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} can't be read ({error.strerror}). Check the path.") from None


def _unreadable(data: bytes, error: Exception) -> str:
    # What pickle and torch.save write: protocol 2 and later, and zip archives. Asked only of what isn't
    # safetensors, because the length that opens a safetensors file can have the same first bytes.
    if data[:1] == b"\x80" or data[:4] == b"PK\x03\x04":
        return (
            "is a pickle, and steerkit reads none, because reading one can run code. Open it where you trust it, "
            "and write its vectors with save_directions."
        )
    return f"is damaged or not a safetensors file ({error}). Get a whole copy, or make it again with `steerkit run`."


def _write(path: Path, data: bytes) -> None:
    try:
        write_whole(path, data)
    except OSError as error:
        raise ArtifactError(f"{path} can't be written ({error.strerror}). Choose another folder with --out.") from None
