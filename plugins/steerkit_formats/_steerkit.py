"""Directions in a safetensors file with a JSON header. Nothing in it can execute."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from steerkit.api.direction import LAST, Direction
from steerkit.api.format import Contents, Format, Given, Places, Written
from steerkit.errors import ArtifactError, SteerkitError
from steerkit.types import Positions, Site
from steerkit_formats.steerkit import SteerkitOptions

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA_VERSION = 2
READABLE = (1, SCHEMA_VERSION)
"""Version 1 had one site for each direction."""
# One key: safetensors writes several in an order that differs from process to process.
HEADER = "steerkit.directions"
VECTORS, REFERENCE_MEAN = "vectors", "reference_mean"

_LENGTH_BYTES: Final = 8
_LONGEST_HEADER: Final = 100_000_000
"""Bytes, as the safetensors format has it."""


class SteerkitFormat(Format[SteerkitOptions]):
    """``<name>.vectors`` ``[rank, d_model]`` and, where known, ``<name>.reference_mean`` ``[d_model]``, in float32.

    Of a direction at several sites it holds these for each, as ``<name>.vectors@<site>``. The header holds sites,
    positions and provenance. Nothing of a direction is lost.
    """

    def sniff(self, path: Path) -> bool:
        """Whether the file's header says that it holds directions of steerkit's."""
        return HEADER in _metadata(path)

    def places(self, path: Path) -> Mapping[str, Places]:
        """Sites and positions of each direction, from the header alone."""
        try:
            entries = json.loads(_metadata(path)[HEADER])["directions"]
            return {name: Places(sites, positions) for name, sites, positions in map(_places_of, entries)}
        except (ValueError, KeyError, TypeError, AttributeError, SteerkitError):
            return {}  # what is wrong is said where the file is read

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
        directions = [_direction(entry, tensors, path, given) for entry in _entries(metadata[HEADER], path)]
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


def _metadata(path: Path) -> Mapping[str, Any]:
    """What the header of a safetensors file says beside its tensors; nothing for any other file."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            header = json.loads(file.read(length)) if 0 < length <= _LONGEST_HEADER else None
    except (OSError, ValueError, RecursionError):
        return {}
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return metadata if isinstance(metadata, dict) else {}


def _tensors(direction: Direction) -> dict[str, Tensor]:
    import torch

    # Contiguous and its own memory: safetensors refuses views that share it.
    return {key: value.detach().to("cpu", torch.float32, copy=True).contiguous() for key, value in _parts(direction)}


def _parts(direction: Direction) -> Iterator[tuple[str, Tensor]]:
    """Every tensor with the name that it has in a file."""
    for site, vectors in direction.items():
        where = None if direction.is_single else site
        yield _key(direction.name, VECTORS, where), vectors
        if site in direction.reference_means:
            yield _key(direction.name, REFERENCE_MEAN, where), direction.reference_means[site]


def _key(name: str, part: str, site: Site | None) -> str:
    return f"{name}.{part}" if site is None else f"{name}.{part}@{site}"


def _entry(direction: Direction) -> dict[str, Any]:
    return {
        "name": direction.name,
        "sites": [str(site) for site in direction.sites],
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
    if version not in READABLE:
        raise ArtifactError(
            f"{path} has schema version {version!r}, and this steerkit reads {READABLE[0]} to {SCHEMA_VERSION}. "
            "Read it with the steerkit that wrote it, or make it again."
        )
    if not isinstance(entries, list):
        raise ArtifactError(f"{path} is damaged: its header lists no directions. Get a whole copy, or make it again.")
    return entries


def _places_of(entry: Mapping[str, Any]) -> tuple[str, tuple[Site, ...], Positions | None]:
    """Name, sites (none where the file doesn't say) and positions of a direction in a file's header."""
    listed = entry["sites"] if "sites" in entry else [entry["site"]]
    sites = tuple(Site.parse(text) for text in listed or () if text is not None)
    written = entry["positions"]
    return str(entry["name"]), sites, None if written is None else Positions.parse(written)


def _direction(entry: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path, given: Given) -> Direction:
    try:
        name, sites, positions = _places_of(entry)
        fault = given.fault(name, sites, positions)
        if fault is None:
            at = {site: None if len(sites) < 2 else site for site in sites or (cast(Site, given.site),)}
            vectors = {site: tensors[_key(name, VECTORS, where)] for site, where in at.items()}
            means = {site: tensors.get(_key(name, REFERENCE_MEAN, where)) for site, where in at.items()}
            known = {site: mean for site, mean in means.items() if mean is not None}
            chosen = positions or given.positions or LAST
            direction = Direction(vectors, None, chosen, name, known or None, dict(entry["provenance"]))
    except (KeyError, TypeError, ValueError, SteerkitError) as error:
        raise ArtifactError(f"{path} is damaged: a direction in it can't be read ({error}). Make it again.") from None
    if fault is not None:
        raise ArtifactError(f"{path}: {fault}")
    _check(direction, f"{path}: ")
    return direction


def _check(direction: Direction, where: str) -> None:
    for key, value in _parts(direction):
        # As written, in float32; a sum of those in float64 is finite only if each of them is.
        if not math.isfinite(float(value.detach().float().double().sum())):
            raise ArtifactError(
                f"{where}{key} holds NaN or infinite values, which are no direction. Estimate it again."
            )
    for site, mean in direction.reference_means.items():
        vectors = direction.by_site[site]
        if mean.shape != vectors.shape[1:]:
            raise ArtifactError(
                f"{where}{_key(direction.name, REFERENCE_MEAN, None if direction.is_single else site)} has shape "
                f"{list(mean.shape)}, and the vectors have {list(vectors.shape)}; the two are of one width. "
                "Estimate the direction again."
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
