"""``steerkit formats``: which files of directions are read and written, and where their vectors act."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final

import typer

_BY_ITSELF: Final = "each file says it"


def formats_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the formats of files of directions: what is read and written, and where vectors act."""
    from steerkit.catalog import Catalog
    from steerkit.columns import console, print_table

    catalog = Catalog.discover(strict=False)
    specs = [catalog.get("format", name) for name in catalog.names("format")]
    rows: list[dict[str, Any]] = [
        {
            "name": spec.name,
            "reads": spec.reads,
            "writes": spec.writes,
            "files": [*spec.suffixes, *(["a folder"] if spec.folder else [])],
            "acts": spec.acts or _BY_ITSELF,
            "options": list(spec.options.model_fields),
            "summary": spec.summary,
        }
        for spec in specs
    ]
    if as_json:
        typer.echo(json.dumps({"formats": rows}, indent=2, ensure_ascii=False))
        return
    head = ("format", "", "files", "where its vectors act", "what it is")
    shown = [
        (
            row["name"],
            " ".join(word for word in ("reads", "writes") if row[word]),
            ", ".join(row["files"]),
            row["acts"],
            row["summary"],
        )
        for row in rows
    ]
    plain = console()
    print_table(plain, "", head, shown)
    plain.print("steerkit convert FILE OUT writes one in another; docs/formats.md tells more of each.")
