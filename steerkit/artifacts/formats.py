"""Which format a file of directions is in, and what that format says of it without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from steerkit.api.files import pipe_fault
from steerkit.api.showing import a_kind
from steerkit.catalog import Catalog, implementation, installed
from steerkit.errors import ArtifactError, DirectionError, SteerkitError, UnknownNameError, nearest

if TYPE_CHECKING:
    from steerkit.api.format import Contents, Format, Given
    from steerkit.api.hookspecs import FormatSpec, Options

OURS: Final = "steerkit"
"""The format in which runs write."""
CONVENTION: Final = "convention"
"""The option that says whose numbering of layers a file follows, where its format has several."""


def format_of(path: Path, catalog: Catalog | None, name: str | None = None, *, say: str = "format=") -> FormatSpec:
    """The format in which a file is read: the one that is named, or the one that knows the file.

    Args:
        path: the file, or the folder.
        catalog: plugins; discovered if not given.
        name: of the format, where it is said.
        say: how it is said, for an error.

    Raises:
        ArtifactError: where two formats claim it, none does of a folder, or the one that is named only writes.
        UnknownNameError: for a format that isn't there.
    """
    if name is None:
        claiming = claims(path, catalog or installed())
        if len(claiming) > 1:
            raise ArtifactError(
                f"{path} could be in format {' or '.join(claiming)}. Say which: {say}{_quoted(claiming[0], say)}."
            )
        name = claiming[0] if claiming else _likely(path, catalog or installed())
    spec = format_spec(name, catalog)
    if not spec.reads:
        raise ArtifactError(f"{path}: format {name} is only written, and not read. Name another format.")
    return spec


def _quoted(name: str, say: str) -> str:
    return repr(name) if say.endswith("=") else name


def _likely(path: Path, catalog: Catalog) -> str:
    """The format in which a file that nobody knows is looked at, which says what is wrong with it."""
    if os.path.isdir(path):
        raise ArtifactError(f"{path} is a folder, and no format knows what is in it. Name a file.")
    specs = [catalog.get("format", name) for name in catalog.names("format")]
    suffix = path.suffix.lower()
    plain = [spec.name for spec in specs if spec.reads and spec.fallback and suffix in spec.suffixes]
    own = any(spec.name == OURS and suffix in spec.suffixes for spec in specs)
    return plain[0] if len(plain) == 1 and not own else OURS


def claims(path: Path, catalog: Catalog) -> list[str]:
    """The formats that know a file, but for fallbacks where another one does. Needs no torch."""
    if not os.path.exists(path) or pipe_fault(path) is not None:  # False of what no path can be
        return []
    specs = [catalog.get("format", name) for name in catalog.names("format")]
    return leading([spec for spec in specs if spec.reads and reader_of(spec).sniff(path)])


def leading(claiming: list[FormatSpec]) -> list[str]:
    """The names of those among several formats that go first: all, or those that are no fallback."""
    return [spec.name for spec in claiming if not spec.fallback] or [spec.name for spec in claiming]


def knows(path: Path, spec: FormatSpec, options: Options | None = None, *, named: bool = True) -> bool:
    """Whether a file is of a format, or, of one that is named, whether it can be."""
    if not spec.reads or not os.path.exists(path) or pipe_fault(path) is not None:
        return False
    reader = reader_of(spec, options)
    return reader.accepts(path) if named else reader.sniff(path)


def read_as(spec: FormatSpec, path: Path, given: Given, options: Options | None = None) -> Contents:
    """Read a file in a format that is known already; no catalog is asked.

    Raises:
        ArtifactError: as ``load_directions``.
    """
    try:
        return reader_of(spec, options).read(path, given)
    except DirectionError as error:  # of a format that leaves it to the direction what none is made of
        raise ArtifactError(f"{path}: {error}") from None


def format_spec(name: str, catalog: Catalog | None) -> FormatSpec:
    """A format by its name. Raises ``UnknownNameError`` where there is none."""
    chosen = catalog or installed()
    if name == OURS and OURS not in chosen.names("format"):  # of a catalog of somebody's own, made for another kind
        chosen = installed()
    return chosen.get("format", name)


def reader_of(spec: FormatSpec, options: Options | None = None) -> Format:
    """A format under some options; under its defaults where there are none."""
    return cast("Format", implementation(spec)(spec.options() if options is None else options))


def format_options(
    spec: FormatSpec, values: Mapping[str, Any] | None = None, convention: str | None = None
) -> Options | None:
    """A format's options from plain values, and from a convention that is named beside them; None for the defaults.

    Raises:
        UnknownNameError: for an option that the format doesn't have.
        SteerkitError: for a value that isn't right, or a convention that is given twice.
    """
    from pydantic import ValidationError

    if values is not None and not isinstance(values, Mapping):
        raise SteerkitError(f"Options of a format are a mapping from names to values, not {type(values).__name__}.")
    given = with_convention(values or {}, convention)
    if not given:
        return None
    known = list(spec.options.model_fields)
    for name in given:
        if name not in known:
            told = nearest(name, known, "option") if known else "It has none: leave it out."
            raise UnknownNameError(f"Format {spec.name} has no option {name!r}. {told}")
    try:
        return spec.options(**given)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "options"
        said = str(first["msg"]).removeprefix("Value error, ").rstrip(".")
        raise SteerkitError(f"Format {spec.name}, option {place}: {said}.") from None


def with_convention(values: Mapping[str, Any], convention: str | None) -> dict[str, Any]:
    """Options with the convention that is named beside them.

    Raises:
        SteerkitError: where they name one too.
    """
    if convention is None:
        return dict(values)
    if CONVENTION in values:
        raise SteerkitError("The convention is given twice, by itself and among the options. Leave one out.")
    return {**values, CONVENTION: convention}


def checked_path(path: object) -> Path:
    """A path that is given as one. Raises ``ArtifactError`` for anything else."""
    if not isinstance(path, (str, Path)):
        raise ArtifactError(f"A file of directions is named by its path, not by {a_kind(path)}.")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ArtifactError(f"{str(path)!r} can't be a path: it holds half of a surrogate pair.") from None
    return Path(path)
