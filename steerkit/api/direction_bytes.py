"""Directions as bytes: safetensors with a JSON header. Nothing in it can execute.

Runs keep directions so, and the format ``steerkit`` is these bytes in a file. They hold ``<name>.vectors``
``[rank, d_model]`` and, where known, ``<name>.reference_mean`` ``[d_model]``, both float32; of a direction at several
sites these for each, as ``<name>.vectors@<site>``. The header holds sites, positions and provenance and, where
one was saved, a whole ``condition``: a reader that knows none finds the directions as before, so it is no new version.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from steerkit.api.condition import SavedCondition
from steerkit.api.direction import LAST, Direction
from steerkit.api.format import Contents, Given
from steerkit.errors import ArtifactError, SteerkitError
from steerkit.types import Positions, Site
from steerkit.types.json_text import RepeatedKeyError, read_json

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

SCHEMA_VERSION: Final = 2
READABLE: Final = (1, SCHEMA_VERSION)
"""Version 1 had one site for each direction."""
# One key: safetensors writes several in an order that differs from process to process.
HEADER: Final = "steerkit.directions"
CONDITION: Final = "condition"
"""In the header, where a file holds one."""
VECTORS, REFERENCE_MEAN = "vectors", "reference_mean"
_LENGTH_BYTES: Final = 8
_KEPT_BYTES: Final = 4
"""Of a number, as vectors and means are kept."""
_FEW: Final = 2
"""Tensors of a direction that are told one by one."""
_LONGEST_HEADER: Final = 100_000_000
"""Bytes, as the safetensors format has it."""


def directions_to_bytes(directions: Sequence[Direction], condition: SavedCondition | None = None) -> bytes:
    """Directions, and a condition that takes them, as bytes; the same ones give the same bytes.

    Raises:
        ArtifactError: for NaN or infinite values, or provenance or options that aren't JSON.
    """
    from safetensors.torch import save

    for direction in directions:
        # Vectors were finite when it was made, but may have been written to since, or be beyond float32.
        _check(direction, "")
    tensors = {key: value for direction in directions for key, value in _tensors(direction).items()}
    header: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "directions": [_entry(direction) for direction in directions],
    }
    if condition is not None:
        header[CONDITION] = condition.to_json()
    try:
        text = json.dumps(header, sort_keys=True, allow_nan=False, ensure_ascii=True)
    except (TypeError, ValueError) as error:
        what = "provenance" if condition is None else "provenance and options"
        raise ArtifactError(f"{what} may hold JSON values only ({error}).") from None
    try:
        content: bytes = save(tensors, metadata={HEADER: text})
    except UnicodeEncodeError:
        raise ArtifactError("a direction's name holds half of a surrogate pair, which no file can hold.") from None
    return content


def lost_in_bytes(directions: Sequence[Direction]) -> tuple[str, ...]:
    """Sentences on what ``directions_to_bytes`` rounds: vectors and means are kept in float32."""
    from torch import equal

    told: list[str] = []
    for direction in directions:
        rounded = {
            key: str(value.dtype).removeprefix("torch.")
            for key, value in _parts(direction)
            if value.element_size() > _KEPT_BYTES and not equal(value.float().to(value.dtype), value)
        }
        if len(rounded) > _FEW:
            told.append(
                f"{len(rounded)} tensors of {direction.name!r} are kept in float32, which rounds their "
                f"{next(iter(rounded.values()))}."
            )
        else:
            told += [f"{key} is kept in float32, which rounds its {dtype}." for key, dtype in rounded.items()]
    return tuple(told)


def directions_from_bytes(data: bytes, where: str = "directions", given: Given = Given()) -> dict[str, Direction]:
    """Read what ``directions_to_bytes`` gave, by name, in its order. A condition beside them is left alone.

    Args:
        data: the bytes.
        where: what they are called in errors, such as a path.
        given: what is said of directions that don't say it.

    Raises:
        ArtifactError: where they are damaged, no directions, of another schema version, or hold NaN or infinite values;
            where they say another site or other positions than are given, or no site and none is given.
    """
    tensors, text = _opened(data, where)
    return _directions(_header(text, where)["directions"], tensors, where, given)


def contents_from_bytes(data: bytes, where: str = "directions", given: Given = Given()) -> Contents:
    """As ``directions_from_bytes``, with the condition, beside which there may be no directions.

    Raises:
        ArtifactError: as ``directions_from_bytes``, and for a condition that can't be read.
    """
    tensors, text = _opened(data, where)
    header = _header(text, where, alone=True)
    condition = SavedCondition.from_json(header[CONDITION], where) if CONDITION in header else None
    return Contents(_directions(header["directions"], tensors, where, given), condition=condition)


def _opened(data: bytes, where: str) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file of ours, and the text of its header."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
        # safetensors has checked the header's length and form by now, but doesn't hand out its metadata from bytes.
        metadata = read_json(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
    except RepeatedKeyError as error:
        raise ArtifactError(f"{where} is damaged: in its header {error}. Make it again.") from None
    except (SafetensorError, ValueError, RuntimeError, RecursionError) as error:
        raise ArtifactError(f"{where} {_unreadable(data, error)}") from None
    if HEADER not in metadata:
        raise ArtifactError(
            f"{where} is a safetensors file, but holds no directions of steerkit's (its header lacks {HEADER!r}). "
            "Write it with save_directions."
        )
    return tensors, metadata[HEADER]


def _directions(
    entries: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor], where: str, given: Given
) -> dict[str, Direction]:
    return _by_name([_direction(entry, tensors, where, given) for entry in entries], where)


def _by_name(directions: Sequence[Direction], where: str) -> dict[str, Direction]:
    """Raises ``ArtifactError`` where two have one name."""
    found = {direction.name: direction for direction in directions}
    if len(found) < len(directions):
        names = [direction.name for direction in directions]
        twice = next(name for name in names if names.count(name) > 1)
        raise ArtifactError(f"{where}: two directions are called {twice!r}. Give each a name of its own.")
    return found


def read_header(path: Path) -> tuple[Mapping[str, Any] | None, int]:
    """The header of a safetensors file, without its vectors, and how many bytes they come behind.

    Returns:
        what it says of each tensor by name, with ``__metadata__``; None for any other file.

    Raises:
        RepeatedKeyError: where a name stands twice in it.
        OSError: where the file can't be read.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if not 0 < length <= _LONGEST_HEADER:
            return None, _LENGTH_BYTES
        try:
            header = read_json(file.read(length))
        except RepeatedKeyError:
            raise
        except (ValueError, RecursionError):
            header = None
    return header if isinstance(header, dict) else None, _LENGTH_BYTES + length


def places_in(
    header: Mapping[str, Any],
) -> dict[str, tuple[tuple[Site, ...], Positions | None, tuple[int, ...], tuple[int, ...]]]:
    """Sites, positions, widths and ranks of each direction, from a file's header alone: tensors and metadata."""
    found = {}
    for entry in json.loads(header["__metadata__"][HEADER])["directions"]:
        name, sites, positions = _places_of(entry)
        keys = [_key(name, VECTORS, site) for site in sites] if len(sites) > 1 else [_key(name, VECTORS, None)]
        ranks, widths = zip(
            *((int(rank), int(width)) for rank, width in (header[key]["shape"] for key in keys)), strict=True
        )
        found[name] = (sites, positions, widths, ranks)
    return found


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


def _mean_key(key: str, name: str) -> str:
    """What the reference mean beside some vectors is called."""
    return f"{name}.{REFERENCE_MEAN}{key.removeprefix(f'{name}.{VECTORS}')}"


def _entry(direction: Direction) -> dict[str, Any]:
    return {
        "name": direction.name,
        "sites": [str(site) for site in direction.sites],
        "positions": str(direction.positions),
        "provenance": dict(direction.provenance),
    }


def _header(text: str, where: str, *, alone: bool = False) -> Mapping[str, Any]:
    """The header, with its list of directions; ``alone``: which may be empty where a condition stands for itself."""
    try:
        header: Mapping[str, Any] = read_json(text)
        version, entries = header["schema_version"], header["directions"]
    except RepeatedKeyError as error:
        raise ArtifactError(f"{where} is damaged: in its header {error}. Make it again.") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ArtifactError(
            f"{where} is damaged: its header can't be read. Get a whole copy, or make it again."
        ) from None
    if version not in READABLE:
        raise ArtifactError(
            f"{where} has schema version {version!r}, and this steerkit reads {READABLE[0]} to {SCHEMA_VERSION}. "
            "Read it with the steerkit that wrote it, or make it again."
        )
    if not isinstance(entries, list):
        raise ArtifactError(f"{where} is damaged: its header lists no directions. Get a whole copy, or make it again.")
    if not entries and not (alone and CONDITION in header):
        if CONDITION in header:
            raise ArtifactError(
                f"{where} holds a condition without directions. steerkit.load_condition(path) reads it."
            )
        raise ArtifactError(f"{where} holds no directions: its header lists none. Name another file, or make it again.")
    return header


def header_fault(header: Mapping[str, Any], where: str) -> str | None:
    """What ``directions_from_bytes`` would refuse of a file by its header alone, as a sentence; None where nothing.

    Args:
        header: of the file, which holds directions of ours: tensors and metadata.
        where: what the file is called.
    """
    try:
        told = _header(header["__metadata__"][HEADER], where)
        entries = told["directions"]
        if CONDITION in told:
            SavedCondition.from_json(told[CONDITION], where)
    except ArtifactError as error:
        return str(error)
    names: set[str] = set()
    for entry in entries:
        try:
            name, sites, _ = _places_of(entry)
            keys = [_key(name, VECTORS, site if len(sites) > 1 else None) for site in sites] or [
                _key(name, VECTORS, None)
            ]
            dict(entry["provenance"])
            shapes = {key: list(header[key]["shape"]) for key in keys}
            means = {key: mean for key in keys if (mean := _mean_key(key, name)) in header}
            if shapeless := [mean for mean in means.values() if not _has_shape(header[mean])]:
                return f"{where} is damaged: {shapeless[0]} has no shape. Make it again."
            mean_shapes = {key: list(header[mean]["shape"]) for key, mean in means.items()}
            complex_ones = [key for key in (*keys, *means.values()) if str(header[key]["dtype"]).startswith("C")]
        except (KeyError, TypeError, ValueError, AttributeError, SteerkitError) as error:
            cause = str(error).removesuffix(".")
            return f"{where} is damaged: a direction in it can't be read ({cause}). Make it again."
        if name in names:
            return f"{where}: two directions are called {name!r}. Give each a name of its own."
        names.add(name)
        if complex_ones:
            return f"{where}: {complex_ones[0]} is of complex numbers, and a direction is of real ones. Make it again."
        for key, shape in shapes.items():
            if len(shape) not in (1, 2) or 0 in shape:
                return f"{where} is damaged: {key} is of shape {shape}, not [rank, d_model]. Make it again."
            if key in means and (fault := _mean_fault(f"{where}: {means[key]}", mean_shapes[key], shape)):
                return fault
    return None


def _has_shape(entry: Any) -> bool:
    return isinstance(entry, Mapping) and isinstance(entry.get("shape"), list)


def _mean_fault(key: str, shape: Sequence[int], vectors: Sequence[int]) -> str | None:
    """That a reference mean is of another width than the vectors beside it."""
    if list(shape) == list(vectors[-1:]):
        return None
    return (
        f"{key} has shape {list(shape)}, and the vectors have {list(vectors)}; the two are of one width. "
        "Estimate the direction again."
    )


def _places_of(entry: Mapping[str, Any]) -> tuple[str, tuple[Site, ...], Positions | None]:
    """Name, sites (none where the file doesn't say) and positions of a direction in a file's header."""
    listed = entry["sites"] if "sites" in entry else [entry["site"]]
    sites = tuple(Site.parse(text) for text in listed or () if text is not None)
    written = entry["positions"]
    return str(entry["name"]), sites, None if written is None else Positions.parse(written)


def _direction(entry: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str, given: Given) -> Direction:
    try:
        name, sites, positions = _places_of(entry)
        fault = given.fault(name, sites, positions)
        if fault is None:
            at = {site: None if len(sites) < 2 else site for site in sites or (cast(Site, given.site),)}
            vectors = {site: tensors[_key(name, VECTORS, told)] for site, told in at.items()}
            means = {site: tensors.get(_key(name, REFERENCE_MEAN, told)) for site, told in at.items()}
            known = {site: mean for site, mean in means.items() if mean is not None}
            chosen = positions or given.positions or LAST
            for site, value in vectors.items():  # before a direction refuses them, which knows no file
                _check_values(f"{where}: {_key(name, VECTORS, at[site])}", value)
            direction = Direction(vectors, None, chosen, name, known or None, dict(entry["provenance"]))
    except ArtifactError:
        raise
    except (KeyError, TypeError, ValueError, SteerkitError) as error:
        cause = str(error).removesuffix(".")
        raise ArtifactError(f"{where} is damaged: a direction in it can't be read ({cause}). Make it again.") from None
    if fault is not None:
        raise ArtifactError(f"{where}: {fault}")
    _check(direction, f"{where}: ")
    return direction


def _check(direction: Direction, where: str) -> None:
    for key, value in _parts(direction):
        _check_values(f"{where}{key}", value)
    for site, mean in direction.reference_means.items():
        key = _key(direction.name, REFERENCE_MEAN, None if direction.is_single else site)
        fault = _mean_fault(f"{where}{key}", mean.shape, direction.by_site[site].shape)
        if fault is not None:
            raise ArtifactError(fault)


def _check_values(key: str, value: Tensor) -> None:
    if value.is_complex():
        raise ArtifactError(f"{key} is of complex numbers, and a direction is of real ones. Write its real vectors.")
    # As written, in float32; a sum of those in float64 is finite only if each of them is.
    if not math.isfinite(float(value.detach().float().double().sum())):
        raise ArtifactError(f"{key} holds NaN or infinite values, which are no direction. Estimate it again.")


def _unreadable(data: bytes, error: Exception) -> str:
    # What pickle and torch.save write: protocol 2 and later, and zip archives. Asked only of what isn't
    # safetensors, because the length that opens a safetensors file can have the same first bytes.
    if data[:1] == b"\x80" or data[:4] == b"PK\x03\x04":
        return (
            "is a pickle, and steerkit reads none, because reading one can run code. Open it where you trust it, "
            "and write its vectors with save_directions."
        )
    return (
        f"is damaged or not a safetensors file ({error}). Get a whole copy, or run the recipe that wrote it once more."
    )
