"""Files of directions, and folders of such, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steerkit.artifacts.files import write_folder, write_whole
from steerkit.artifacts.formats import OURS, checked_path, format_options, format_spec, knows, reader_of
from steerkit.catalog import Catalog
from steerkit.errors import ArtifactError, DirectionError

if TYPE_CHECKING:
    from steerkit.api.format import Contents
    from steerkit.api.hookspecs import FormatSpec

OUR_SUFFIX: Final = ".safetensors"


def write_file(
    path: str | Path,
    contents: Contents,
    format: str = OURS,
    catalog: Catalog | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[str, ...]:
    """Write what a file is to hold, whole or not at all.

    Returns:
        sentences on what the format has no place for.

    Raises:
        ArtifactError: as ``save_directions``, but for what directions are called.
    """
    path = checked_path(path)
    # Ours needs no plugin: a run writes it whatever is installed.
    if format == OURS and catalog is None and not options:
        return _write_ours(path, contents)
    spec = format_spec(format, catalog)
    if not spec.writes:
        raise ArtifactError(f"{path}: format {format} is only read, and not written. Name another format.")
    _require_room(path, spec) if spec.folder else _require_name(path, format, spec.suffixes)
    try:
        written = reader_of(spec, format_options(spec, options)).write(contents)
    except (ArtifactError, DirectionError) as error:
        raise ArtifactError(f"{path}: {error}") from None
    try:
        write_folder(path, written.files) if spec.folder else write_whole(path, written.data)
    except OSError as error:
        raise ArtifactError(f"{path} can't be written ({error.strerror}). Choose another place.") from None
    return written.lost


def _write_ours(path: Path, contents: Contents) -> tuple[str, ...]:
    from steerkit.api.direction_bytes import directions_to_bytes, lost_in_bytes

    _require_name(path, OURS, (OUR_SUFFIX,))
    listed = list(contents.directions.values())
    try:
        write_whole(path, directions_to_bytes(listed, contents.condition))
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from None
    except OSError as error:
        raise ArtifactError(f"{path} can't be written ({error.strerror}). Choose another folder with --out.") from None
    return lost_in_bytes(listed)


def _require_name(path: Path, format: str, suffixes: Sequence[str]) -> None:
    """The path of a file of a format, and no folder's."""
    if os.path.isdir(path):  # also what an empty text comes to
        raise ArtifactError(f"{path} is a folder. Name the file that directions are written to.")
    if suffixes and path.suffix.lower() not in suffixes:
        raise ArtifactError(
            f"{path} is no name for a file of format {format}, whose files end in {' or '.join(suffixes)}. Write to "
            f"{path.with_suffix(suffixes[0]) if path.name else f'a file such as directions{suffixes[0]}'}, or name "
            "another format."
        )


def _require_room(path: Path, spec: FormatSpec) -> None:
    """The path of a folder that may be made, is empty, or holds what the format wrote there and nothing else."""
    if path.suffix.lower() in spec.suffixes or os.path.isfile(path):
        raise ArtifactError(
            f"{path} is no name for what format {spec.name} writes, which is a folder of files. Write to "
            f"{path.with_suffix('') if path.suffix else f'{path}-{spec.name}'}, or name another format."
        )
    if not os.path.isdir(path) or not any(path.iterdir()):
        return
    if not knows(path, spec) or set(path.iterdir()) != set(reader_of(spec).files(path)):
        raise ArtifactError(
            f"{path} is a folder with other files in it, and format {spec.name} needs one of its own. Name a new one."
        )
