"""Directions on disk, in steerkit's own format or another one that a plugin provides."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.api.direction import Direction
from steerkit.api.files import pipe_fault
from steerkit.api.showing import a_kind
from steerkit.artifacts.formats import OURS, checked_path, format_of, format_options, read_as
from steerkit.artifacts.writing import write_file
from steerkit.catalog import Catalog
from steerkit.errors import ArtifactError
from steerkit.types import Positions, Site, SitePattern, parse_sites

if TYPE_CHECKING:
    from steerkit.api.format import Contents


def save_directions(
    path: str | Path,
    directions: Sequence[Direction] | Mapping[str, Direction] | Direction,
    *,
    format: str = OURS,
    options: Mapping[str, Any] | None = None,
    catalog: Catalog | None = None,
) -> tuple[str, ...]:
    """Write directions to one file, whole or not at all; the same directions give the same bytes.

    Args:
        path: the file, or the folder where a format writes one; an older one of that format is replaced.
        directions: one, or several with names that differ; in a mapping each goes by its key.
        format: name of a format plugin, as ``steerkit formats`` lists them.
        options: of the format.
        catalog: plugins; discovered if not given.

    Returns:
        sentences on what of the directions the format has no place for; in steerkit's own, what float32 rounds.

    Raises:
        ArtifactError: for a file name that doesn't end as the format's do, two directions of one name, NaN or infinite
            values, what the format can't hold, or a folder that can't be written to.
        SteerkitError: for an option that the format doesn't have.
    """
    from steerkit.api.format import Contents

    if isinstance(directions, (str, Path)) and not isinstance(path, (str, Path)):
        raise ArtifactError(f"The file comes first: save_directions({str(directions)!r}, [direction]).")
    path, directions = checked_path(path), _listed(directions)
    names = [direction.name for direction in directions]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated or not names:
        problem = f"two directions are called {repeated[0]!r}" if repeated else "there is no direction to save"
        hint = "Give each direction a name of its own." if repeated else "Pass a list of at least one."
        raise ArtifactError(f"{path}: {problem}. {hint}")
    contents = Contents({direction.name: direction for direction in directions})
    return write_file(path, contents, format, catalog, options)


def load_directions(
    path: str | Path,
    *,
    site: Site | SitePattern | str | None = None,
    positions: Positions | str | int | None = None,
    format: str | None = None,
    convention: str | None = None,
    options: Mapping[str, Any] | None = None,
    catalog: Catalog | None = None,
) -> dict[str, Direction]:
    """Read the directions of a file, by name, in the file's order. A warning tells what is lost in reading.

    Args:
        path: the file, or the folder for a format that reads one.
        site: where directions were estimated, for a file that doesn't say. Where it says, it must say the same. For a
            file of one row per layer, a pattern of as many sites, as in ``blocks.*.resid_post``.
        positions: at which tokens, likewise.
        format: name of a format plugin, as ``steerkit formats`` lists them; None for the one that knows the file.
        convention: whose numbering of layers the file follows, for a format whose files don't tell.
        options: of the format.
        catalog: plugins; discovered if not given.

    Raises:
        ArtifactError: where the file is missing, damaged, in no known format, of another version, or holds NaN or
            infinite values; where two formats claim it; where it says another site or other positions, or no site and
            none is given.
        SteerkitError: for an option that the format doesn't have.
    """
    contents = read_file(
        path,
        site=site,
        positions=positions,
        format=format,
        convention=convention,
        options=options,
        catalog=catalog,
    )
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
    convention: str | None = None,
    options: Mapping[str, Any] | None = None,
    catalog: Catalog | None = None,
) -> Contents:
    """As ``load_directions``, with what is lost in reading, and the condition where the file holds one."""
    from steerkit.api.format import Given

    path = checked_path(path)
    if (fault := pipe_fault(path)) is not None:
        raise ArtifactError(f"{fault}.")
    given = Given(
        None if site is None else parse_sites(site), None if positions is None else Positions.parse(positions)
    )
    spec = format_of(path, catalog, format)
    return read_as(spec, path, given, format_options(spec, options, convention))


def _listed(directions: object) -> list[Direction]:
    """Directions as a list, of one where one is given; by name where they are a mapping."""
    given = list(directions.values()) if isinstance(directions, Mapping) else directions
    given = [given] if isinstance(given, Direction) else given
    if not isinstance(given, Sequence) or not all(isinstance(one, Direction) for one in given):
        raise ArtifactError(f"Directions to save are a list of steerkit.Direction, not {a_kind(directions)}.")
    if isinstance(directions, Mapping):
        return [one if one.name == name else one.replace(name=name) for name, one in directions.items()]
    return list(given)
