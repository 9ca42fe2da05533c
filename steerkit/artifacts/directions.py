"""Directions on disk, in steerkit's own format or another one that a plugin provides."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from steerkit.api.direction import Direction
from steerkit.api.files import pipe_fault
from steerkit.api.showing import a_kind
from steerkit.artifacts.files import write_whole
from steerkit.catalog import Catalog, implementation, installed
from steerkit.errors import ArtifactError, DirectionError
from steerkit.types import Positions, Site, SitePattern, parse_sites

if TYPE_CHECKING:
    from steerkit.api.format import Contents, Format, Given, Places
    from steerkit.api.hookspecs import FormatSpec

OURS = "steerkit"
"""The format in which runs write."""
OUR_SUFFIX = ".safetensors"


def save_directions(
    path: str | Path,
    directions: Sequence[Direction] | Mapping[str, Direction] | Direction,
    *,
    format: str = OURS,
    catalog: Catalog | None = None,
) -> tuple[str, ...]:
    """Write directions to one file, whole or not at all; the same directions give the same bytes.

    Args:
        path: the file; an older one is replaced.
        directions: one, or several with names that differ; in a mapping each goes by its key.
        format: name of a format plugin.
        catalog: plugins; discovered if not given.

    Returns:
        sentences on what of the directions the format has no place for; in steerkit's own, what float32 rounds.

    Raises:
        ArtifactError: for a file name that doesn't end as the format's do, two directions of one name, NaN or infinite
            values, what the format can't hold, or a folder that can't be written to.
    """
    from steerkit.api.format import Contents

    if isinstance(directions, (str, Path)) and not isinstance(path, (str, Path)):
        raise ArtifactError(f"The file comes first: save_directions({str(directions)!r}, [direction]).")
    path, directions = _path(path), _listed(directions)
    _require_no_folder(path)
    names = [direction.name for direction in directions]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated or not names:
        problem = f"two directions are called {repeated[0]!r}" if repeated else "there is no direction to save"
        hint = "Give each direction a name of its own." if repeated else "Pass a list of at least one."
        raise ArtifactError(f"{path}: {problem}. {hint}")
    return write_file(path, Contents({direction.name: direction for direction in directions}), format, catalog)


def write_file(
    path: str | Path, contents: Contents, format: str = OURS, catalog: Catalog | None = None
) -> tuple[str, ...]:
    """Write what a file is to hold, whole or not at all.

    Returns:
        sentences on what the format has no place for.

    Raises:
        ArtifactError: as ``save_directions``, but for what directions are called.
    """
    from steerkit.api.direction_bytes import directions_to_bytes, lost_in_bytes
    from steerkit.api.format import Written

    path = _path(path)
    _require_no_folder(path)
    # Ours needs no plugin: a run writes it whatever is installed.
    ours = format == OURS and catalog is None
    suffixes = (OUR_SUFFIX,) if ours else _format_spec(format, catalog).suffixes
    if suffixes and path.suffix.lower() not in suffixes:
        raise ArtifactError(
            f"{path} is no name for a file of format {format}, whose files end in {' or '.join(suffixes)}. Write to "
            f"{path.with_suffix(suffixes[0]) if path.name else f'a file such as directions{suffixes[0]}'}, or name "
            "another format."
        )
    try:
        if ours:
            listed = list(contents.directions.values())
            written = Written(directions_to_bytes(listed, contents.condition), lost_in_bytes(listed))
        else:
            written = _format(format, catalog).write(contents)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from None
    try:
        write_whole(path, written.data)
    except OSError as error:
        raise ArtifactError(f"{path} can't be written ({error.strerror}). Choose another folder with --out.") from None
    return written.lost


def _require_no_folder(path: Path) -> None:
    if os.path.isdir(path):  # also what an empty text comes to
        raise ArtifactError(f"{path} is a folder. Name the file that directions are written to.")


def load_directions(
    path: str | Path,
    *,
    site: Site | SitePattern | str | None = None,
    positions: Positions | str | int | None = None,
    format: str | None = None,
    catalog: Catalog | None = None,
) -> dict[str, Direction]:
    """Read the directions of a file, by name, in the file's order. A warning tells what is lost in reading.

    Args:
        path: the file.
        site: where directions were estimated, for a file that doesn't say. Where it says, it must say the same.
        positions: at which tokens, likewise.
        format: name of a format plugin; None for the one that knows the file.
        catalog: plugins; discovered if not given.

    Raises:
        ArtifactError: where the file is missing, damaged, in no known format, of another version, or holds NaN or
            infinite values; where two formats claim it; where it says another site or other positions, or no site and
            none is given.
    """
    contents = read_file(path, site=site, positions=positions, format=format, catalog=catalog)
    if contents.condition is not None and not contents.directions:
        raise ArtifactError(f"{path} holds a condition without directions. steerkit.load_condition(path) reads it.")
    if contents.lost:
        warnings.warn(f"{path}: {' '.join(contents.lost)}", UserWarning, 2)
    return dict(contents.directions)


def read_file(
    path: str | Path,
    *,
    site: Site | SitePattern | str | None = None,
    positions: Positions | str | int | None = None,
    format: str | None = None,
    catalog: Catalog | None = None,
) -> Contents:
    """As ``load_directions``, with what is lost in reading, and the condition where the file holds one."""
    from steerkit.api.format import Given

    path = _path(path)
    if (fault := pipe_fault(path)) is not None:
        raise ArtifactError(f"{fault}.")
    given = Given(
        None if site is None else parse_sites(site), None if positions is None else Positions.parse(positions)
    )
    return read_as(format_of(path, catalog, format), path, given)


def format_of(path: Path, catalog: Catalog | None, name: str | None = None) -> FormatSpec:
    """The format in which a file is read: the one that is named, or the one that knows the file.

    Raises:
        ArtifactError: where two formats claim it.
        UnknownNameError: for a format that isn't there.
    """
    if name is None:
        claiming = claims(path, catalog or installed())
        if len(claiming) > 1:
            raise ArtifactError(
                f"{path} could be in format {' or '.join(claiming)}. Say which: format={claiming[0]!r}."
            )
        # What nobody knows is looked at as ours, which says best what is wrong with it.
        name = claiming[0] if claiming else OURS
    return _format_spec(name, catalog)


def read_as(spec: FormatSpec, path: Path, given: Given) -> Contents:
    """Read a file in a format that is known already; no catalog is asked.

    Raises:
        ArtifactError: as ``load_directions``.
    """
    try:
        return _reader(spec).read(path, given)
    except DirectionError as error:  # of a format that leaves it to the direction what none is made of
        raise ArtifactError(f"{path}: {error}") from None


def saved_places(path: Path, catalog: Catalog, format: str | None = None) -> Mapping[str, Places]:
    """Sites and positions of each direction in a file, as far as its format can tell without torch."""
    claiming = [format] if format is not None else claims(path, catalog)
    return _format(claiming[0], catalog).places(path) if claiming else {}


def claims(path: Path, catalog: Catalog) -> list[str]:
    """The formats that know a file. Needs no torch."""
    if pipe_fault(path) is not None:
        return []
    return [name for name in catalog.names("format") if _format(name, catalog).sniff(path)]


def _format_spec(name: str, catalog: Catalog | None) -> FormatSpec:
    chosen = catalog or installed()
    if name == OURS and OURS not in chosen.names("format"):  # of a catalog of somebody's own, made for another kind
        chosen = installed()
    return chosen.get("format", name)


def _format(name: str, catalog: Catalog | None) -> Format:
    return _reader(_format_spec(name, catalog))


def _reader(spec: FormatSpec) -> Format:
    return cast("Format", implementation(spec)(spec.options()))


def _path(path: object) -> Path:
    if not isinstance(path, (str, Path)):
        raise ArtifactError(f"A file of directions is named by its path, not by {a_kind(path)}.")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ArtifactError(f"{str(path)!r} can't be a path: it holds half of a surrogate pair.") from None
    return Path(path)


def _listed(directions: object) -> list[Direction]:
    """Directions as a list, of one where one is given; by name where they are a mapping."""
    given = list(directions.values()) if isinstance(directions, Mapping) else directions
    given = [given] if isinstance(given, Direction) else given
    if not isinstance(given, Sequence) or not all(isinstance(one, Direction) for one in given):
        raise ArtifactError(f"Directions to save are a list of steerkit.Direction, not {a_kind(directions)}.")
    if isinstance(directions, Mapping):
        return [one if one.name == name else one.replace(name=name) for name, one in directions.items()]
    return list(given)
