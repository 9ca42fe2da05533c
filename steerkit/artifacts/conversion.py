"""A file of directions in one format, written in another."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.api.files import pipe_fault
from steerkit.artifacts.directions import read_file
from steerkit.artifacts.files import shown_path
from steerkit.artifacts.formats import CONVENTION, checked_path, format_of, format_spec, leading
from steerkit.artifacts.writing import write_file
from steerkit.catalog import Catalog, installed
from steerkit.errors import ArtifactError, SteerkitError, UnknownNameError, listed, nearest

if TYPE_CHECKING:
    from steerkit.api.direction import Direction
    from steerkit.api.format import Contents
    from steerkit.api.hookspecs import FormatSpec

_READER, _WRITER = "from.", "to."
"""Before an option that both formats have."""


@dataclass(frozen=True)
class Asked:
    """What a conversion is to do beside reading and writing. See ``steerkit convert``.

    Args:
        source: name of the file's format; None for the one that knows it.
        target: name of the format to write; None for that of the new file's name.
        site: where directions were estimated, for a file that doesn't say.
        positions: at which tokens, likewise.
        convention: whose numbering of layers is followed, of the one format that has several.
        options: of either format, by name, with ``from.`` or ``to.`` before one that both have.
        direction: the one to write; None for all.
        at: the one site to write it at; None for all.
        force: whether what is there already is written over.
    """

    source: str | None = None
    target: str | None = None
    site: str | None = None
    positions: str | None = None
    convention: str | None = None
    options: Mapping[str, Any] | None = None
    direction: str | None = None
    at: str | None = None
    force: bool = False


@dataclass(frozen=True)
class Converted:
    """What was read and written.

    Args:
        source: name of the format that was read.
        target: name of the format that was written.
        directions: where each has vectors, in words, by name.
        lost_in_reading: sentences on what the file says and steerkit has no place for, or doesn't say.
        lost_in_writing: sentences on what the new file has no place for.
    """

    source: str
    target: str
    directions: Mapping[str, str]
    lost_in_reading: tuple[str, ...]
    lost_in_writing: tuple[str, ...]


def convert(file: Path, out: Path, asked: Asked = Asked(), catalog: Catalog | None = None) -> Converted:
    """Read a file of directions and write what it holds in another format, whole or not at all.

    Raises:
        ArtifactError: as reading and writing do; where what is to be written is there already; where several formats
            could be meant.
        UnknownNameError: for a format, a direction or an option that isn't there.
    """
    file, out = checked_path(file), checked_path(out)
    catalog = catalog or installed()
    _require_file(file)
    reader = format_of(file, catalog, asked.source, say="--from ")
    writer = _writer(out, asked.target, catalog)
    reading, writing = _options(asked, reader, writer)
    if out.exists():
        if out.samefile(file):
            raise ArtifactError(f"{out} is the file that is read. Name another one.")
        if not asked.force and not (out.is_dir() and not any(out.iterdir())):
            raise ArtifactError(f"{out} is there already. Name another one, or write over it with --force.")
    contents = read_file(
        file, site=asked.site, positions=asked.positions, format=reader.name, options=reading, catalog=catalog
    )
    chosen = _chosen(contents, asked, file)
    lost = write_file(out, chosen, writer.name, catalog, writing)
    where = {name: direction.describe() for name, direction in chosen.directions.items()}
    return Converted(reader.name, writer.name, where, contents.lost, lost)


def _require_file(path: Path) -> None:
    if (fault := pipe_fault(path)) is not None:
        raise ArtifactError(f"{fault}.")
    if not os.path.exists(path):
        raise ArtifactError(f"There is no file {shown_path(path)}. Check the path.")
    if path.is_file() and not path.stat().st_size:
        raise ArtifactError(f"{path} is empty. Get a whole copy.")


def _writer(out: Path, name: str | None, catalog: Catalog) -> FormatSpec:
    """The format to write: the one that is named, or that of a file's name."""
    specs = [catalog.get("format", one) for one in catalog.names("format")]
    if name is not None:
        return format_spec(name, catalog)
    suffix = out.suffix.lower()
    able = [spec for spec in specs if spec.writes and not spec.folder and suffix in spec.suffixes]
    if len(leading(able)) == 1:
        return format_spec(leading(able)[0], catalog)
    if able:
        names = [spec.name for spec in able]
        raise ArtifactError(f"Several formats write files {suffix}: {listed(names)}. Say which: --to {names[0]}.")
    known = sorted({one for spec in specs if spec.writes and not spec.folder for one in spec.suffixes})
    folders = [spec.name for spec in specs if spec.writes and spec.folder]
    raise ArtifactError(
        f"No format is known by the name {out.name!r}: files end in {listed(known)}. Say which: --to FORMAT; "
        f"{listed(folders)} write folders."
    )


def _options(asked: Asked, reader: FormatSpec, writer: FormatSpec) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the format that is read and of the one that is written."""
    given = dict(asked.options or {})
    if asked.convention is not None:
        if any(name.removeprefix(_READER).removeprefix(_WRITER) == CONVENTION for name in given):
            raise SteerkitError("The convention is given twice, as --convention and as --option. Leave one out.")
        given[CONVENTION] = asked.convention
    reading: dict[str, Any] = {}
    writing: dict[str, Any] = {}
    for name, value in given.items():
        plain = name.removeprefix(_READER).removeprefix(_WRITER)
        of_reader = plain in reader.options.model_fields and not name.startswith(_WRITER)
        of_writer = plain in writer.options.model_fields and not name.startswith(_READER)
        if of_reader and of_writer:
            raise SteerkitError(
                f"Formats {reader.name} and {writer.name} both have an option {plain!r}. Say whose: --option "
                f"from.{plain}=... or --option to.{plain}=..."
            )
        if not of_reader and not of_writer:
            raise _no_option(name, plain, reader, writer)
        (reading if of_reader else writing)[plain] = value
    return reading, writing


def _no_option(name: str, plain: str, reader: FormatSpec, writer: FormatSpec) -> SteerkitError:
    if plain == CONVENTION:
        return UnknownNameError(
            f"Neither format {reader.name} nor {writer.name} has several conventions. Leave out {CONVENTION}."
        )
    known = [*reader.options.model_fields, *writer.options.model_fields]
    told = nearest(plain, known, "option") if known else "They have none: leave it out."
    return UnknownNameError(f"Neither format {reader.name} nor {writer.name} has an option {name!r}. {told}")


def _chosen(contents: Contents, asked: Asked, file: Path) -> Contents:
    """What of a file is to be written. A condition goes with all its directions, as they are, or not at all."""
    from steerkit.api.format import Contents

    if asked.direction is None and asked.at is None:
        return contents
    found: dict[str, Direction] = dict(contents.directions)
    if asked.direction is not None:
        if asked.direction not in found:
            told = nearest(asked.direction, found, "direction")
            raise UnknownNameError(f"{file} has no direction {asked.direction!r}. {told}")
        found = {asked.direction: found[asked.direction]}
    if asked.at is not None:
        found = {name: direction.at(asked.at) for name, direction in found.items()}
    return Contents(found, contents.lost)
