"""Directions in a safetensors file with a JSON header. Nothing in it can execute."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steerkit.api.direction import Direction
from steerkit.api.format import Contents, Format, Given, Written
from steerkit.errors import ArtifactError, SteerkitError
from steerkit.types import Positions, Site
from steerkit_formats.steerkit import SteerkitOptions

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA_VERSION = 1
# One key: safetensors writes several in an order that differs from process to process.
HEADER = "steerkit.directions"
VECTORS, REFERENCE_MEAN = "vectors", "reference_mean"

_LENGTH_BYTES: Final = 8
_LONGEST_HEADER: Final = 100_000_000
"""Bytes, as the safetensors format has it."""


class SteerkitFormat(Format[SteerkitOptions]):
    """``<name>.vectors`` ``[rank, d_model]`` and, where known, ``<name>.reference_mean`` ``[d_model]``, in float32.

    The header holds site, positions and provenance of each. Nothing of a direction is lost.
    """

    def sniff(self, path: Path) -> bool:
        """Whether the file's header says that it holds directions of steerkit's."""
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
                header = json.loads(file.read(length)) if 0 < length <= _LONGEST_HEADER else None
        except (OSError, ValueError, RecursionError):
            return False
        return isinstance(header, dict) and HEADER in (header.get("__metadata__") or {})

    def read(self, path: Path, given: Given = Given()) -> Contents:
        """Read what ``write`` gave, by name, in the order in which it was given.

        Raises:
            ArtifactError: where the file is missing, damaged, not steerkit's, of another schema version,
                or holds NaN or infinite values; where it says another site or other positions than are given.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        data = _read(path)
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
        directions = [_direction(entry, tensors, path) for entry in _entries(metadata[HEADER], path)]
        for direction in directions:
            _require_agreement(direction, given, path)
        return Contents({direction.name: direction for direction in directions})

    def write(self, contents: Contents) -> Written:
        """The file's bytes; the same directions give the same ones.

        Raises:
            ArtifactError: for NaN or infinite values, or provenance that isn't JSON.
        """
        from safetensors.torch import save

        directions = list(contents.directions.values())
        for direction in directions:
            _check(direction, "")
        tensors = {key: value for direction in directions for key, value in _tensors(direction).items()}
        header = {"schema_version": SCHEMA_VERSION, "directions": [_entry(direction) for direction in directions]}
        try:
            text = json.dumps(header, sort_keys=True, allow_nan=False, ensure_ascii=True)
        except (TypeError, ValueError) as error:
            raise ArtifactError(f"provenance may hold JSON values only ({error}).") from None
        return Written(save(tensors, metadata={HEADER: text}))


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
    _check(direction, f"{path}: ")
    return direction


def _require_agreement(direction: Direction, given: Given, path: Path) -> None:
    """The file says where each direction was estimated; who says it as well says the same."""
    name, site = direction.name, given.site
    if site is not None and site != direction.site:
        raise ArtifactError(
            f"{path}: direction {name!r} was estimated at {direction.site}, not at {site}. Leave out site."
        )
    if given.positions is not None and given.positions != direction.positions:
        raise ArtifactError(
            f"{path}: direction {name!r} was estimated at positions '{direction.positions}', not '{given.positions}'. "
            "Leave them out."
        )


def _check(direction: Direction, where: str) -> None:
    vectors, reference = direction.vectors, direction.reference_mean
    for part, value in ((VECTORS, vectors), (REFERENCE_MEAN, reference)):
        # As written, in float32; a sum of those in float64 is finite only if each of them is.
        if value is not None and not math.isfinite(float(value.detach().float().double().sum())):
            raise ArtifactError(
                f"{where}{direction.name}.{part} holds NaN or infinite values, which are no direction. "
                "Estimate it again."
            )
    if reference is not None and reference.shape != vectors.shape[1:]:
        raise ArtifactError(
            f"{where}{direction.name}.{REFERENCE_MEAN} has shape {list(reference.shape)}, and the vectors have "
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
