"""Directions on disk: a safetensors file with a JSON header. Nothing in it can execute."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from steerkit.api.direction import LAST, Direction
from steerkit.artifacts.files import write_whole
from steerkit.errors import ArtifactError, SteerkitError
from steerkit.types import Positions, Site, SitePattern, parse_sites

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA_VERSION = 2
READABLE = (1, SCHEMA_VERSION)
"""Version 1 had one site for each direction."""
# One key: safetensors writes several in an order that differs from process to process.
HEADER = "steerkit.directions"
VECTORS, REFERENCE_MEAN = "vectors", "reference_mean"


def save_directions(path: str | Path, directions: Sequence[Direction]) -> None:
    """Write directions to one file, whole or not at all; the same directions give the same bytes.

    The file holds ``<name>.vectors`` ``[rank, d_model]`` and, where known, ``<name>.reference_mean``
    ``[d_model]``, both float32; its header holds sites, positions and provenance. Of a direction at several sites it
    holds these for each, as ``<name>.vectors@<site>``.

    Args:
        path: the file, which ends in ``.safetensors``; an older one is replaced.
        directions: at least one, with names that differ.

    Raises:
        ArtifactError: for two directions of one name, NaN or infinite values, provenance that isn't
            JSON, or a folder that can't be written to.
    """
    from safetensors.torch import save

    path = Path(path)
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
    _write(path, save(tensors, metadata={HEADER: text}))


def load_directions(
    path: str | Path,
    *,
    site: Site | SitePattern | str | None = None,
    positions: Positions | str | int | None = None,
) -> dict[str, Direction]:
    """Read what ``save_directions`` wrote, by name, in the order in which it was given.

    Args:
        path: the file.
        site: where directions were estimated, for a file that doesn't say. Where it says, it must say the same.
        positions: at which tokens, likewise.

    Raises:
        ArtifactError: where the file is missing, damaged, not steerkit's, of another schema version, or holds NaN or
            infinite values; where it says another site or other positions, or no site and none is given.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(path)
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
    given = Given(
        None if site is None else parse_sites(site), None if positions is None else Positions.parse(positions)
    )
    found = [_direction(entry, tensors, path, given) for entry in _entries(metadata[HEADER], path)]
    return {direction.name: direction for direction in found}


def _tensors(direction: Direction) -> dict[str, Tensor]:
    import torch

    kept = {}
    for key, value in _parts(direction):
        # Contiguous and its own memory: safetensors refuses views that share it.
        kept[key] = value.detach().to("cpu", torch.float32, copy=True).contiguous()
    return kept


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


@dataclass(frozen=True)
class Given:
    """What a reader adds to a file that lacks it.

    Args:
        site: of every direction in it, or a pattern that its sites must fit.
        positions: likewise.
    """

    site: Site | SitePattern | None = None
    positions: Positions | None = None

    def fault(self, name: str, sites: Sequence[Site], positions: Positions | None) -> str | None:
        """What keeps it from going together with what a file says of a direction; None where nothing does."""
        if not sites and not isinstance(self.site, Site):
            return f"the file doesn't say at which site direction {name!r} was estimated. Give it as site."
        if sites and self.site is not None and not _fits(self.site, sites):
            more = f" to {sites[-1]}" if len(sites) > 1 else ""
            return f"direction {name!r} was estimated at {sites[0]}{more}, not at {self.site}. Leave out site."
        if positions is not None and self.positions is not None and _in_prompt(positions) != _in_prompt(self.positions):
            return (
                f"direction {name!r} was estimated at positions '{positions}', not '{self.positions}'. Leave them out."
            )
        return None


def _in_prompt(positions: Positions) -> Positions:
    """Positions of prompts: there an index without a role counts in the prompt."""
    return replace(positions, role="prompt") if positions.role == "" else positions


def _fits(given: Site | SitePattern, sites: Sequence[Site]) -> bool:
    if isinstance(given, Site):
        return list(sites) == [given]
    first, last = given.layers or (0, max(site.layer for site in sites))
    return all(
        site.stream == given.stream and site.head == given.head and first <= site.layer <= last for site in sites
    )


def places_of(entry: Mapping[str, Any]) -> tuple[str, tuple[Site, ...], Positions | None]:
    """Name, sites (none where the file doesn't say) and positions of a direction in a file's header."""
    listed = entry["sites"] if "sites" in entry else [entry["site"]]
    sites = tuple(Site.parse(text) for text in listed or () if text is not None)
    written = entry["positions"]
    return str(entry["name"]), sites, None if written is None else Positions.parse(written)


def _direction(entry: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path, given: Given) -> Direction:
    try:
        name, sites, positions = places_of(entry)
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
    _check(direction, path)
    return direction


def _check(direction: Direction, path: Path) -> None:
    for key, value in _parts(direction):
        # As written, in float32; a sum of those in float64 is finite only if each of them is.
        if not math.isfinite(float(value.detach().float().double().sum())):
            raise ArtifactError(
                f"{path}: {key} holds NaN or infinite values, which are no direction. Estimate it again."
            )
    for site, mean in direction.reference_means.items():
        vectors = direction.by_site[site]
        if mean.shape != vectors.shape[1:]:
            raise ArtifactError(
                f"{path}: {_key(direction.name, REFERENCE_MEAN, None if direction.is_single else site)} has shape "
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


def _write(path: Path, data: bytes) -> None:
    try:
        write_whole(path, data)
    except OSError as error:
        raise ArtifactError(f"{path} can't be written ({error.strerror}). Choose another folder with --out.") from None
