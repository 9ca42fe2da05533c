"""``steerkit convert``: a file of directions of one tool, written for another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerkit.cli.paths import required
from steerkit.errors import SteerkitError, counted

if TYPE_CHECKING:
    from steerkit.artifacts.conversion import Converted


def convert_command(
    file: Annotated[Path, typer.Argument(parser=required, metavar="FILE", help="A file or a folder of vectors.")],
    out: Annotated[Path, typer.Argument(parser=required, metavar="OUT", help="What to write.")],
    source: Annotated[
        str | None, typer.Option("--from", metavar="FORMAT", help="The file's format; the one that knows it if not.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--to", metavar="FORMAT", help="The format to write; as OUT's name ends if not.")
    ] = None,
    site: Annotated[
        str | None,
        typer.Option(
            metavar="SITE",
            help="Where a file that doesn't say it has its vectors: blocks.14.resid_pre, or blocks.*.resid_post for a "
            "row per layer.",
        ),
    ] = None,
    positions: Annotated[
        str | None, typer.Option(metavar="POSITIONS", help="At which tokens they were read, likewise.")
    ] = None,
    convention: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Whose numbering of layers is followed, where a format has several."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="NAME=VALUE", help="An option of either format, in YAML; again for more."),
    ] = None,
    direction: Annotated[str | None, typer.Option(metavar="NAME", help="The one direction to write.")] = None,
    at: Annotated[str | None, typer.Option(metavar="SITE", help="The one site to write vectors of.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over what is there.")] = False,
) -> None:
    """Write the directions of a file in another format, and say what the new file has no place for."""
    from steerkit.artifacts.conversion import Asked, convert

    options = _options(option or ())
    asked = Asked(source, target, site, positions, convention, options, direction, at, force)
    _print(convert(file, out, asked), out)


def _options(given: Sequence[str]) -> dict[str, Any]:
    """Options as ``name=value``, the value in YAML."""
    import yaml

    found: dict[str, Any] = {}
    for text in given:
        name, mark, value = text.partition("=")
        if not mark or not name.strip():
            raise SteerkitError(f"--option takes NAME=VALUE, as in features=[12], not {text!r}.")
        try:
            read = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise SteerkitError(f"--option {name}: {value!r} is no value in YAML.") from None
        if name.strip() in found:
            raise SteerkitError(f"--option {name.strip()} is given twice. Leave one out.")
        found[name.strip()] = tuple(read) if isinstance(read, list) else read
    return found


def _print(converted: Converted, out: Path) -> None:
    typer.echo(
        f"{out}: {counted(len(converted.directions), 'direction')}, from format {converted.source} to "
        f"{converted.target}."
    )
    for name, where in converted.directions.items():
        typer.echo(f"  {name} at {where}")
    for said in converted.lost_in_reading:
        typer.echo(f"Reading: {said}")
    for said in converted.lost_in_writing:
        typer.echo(f"Writing: {said}")
