"""``steerkit compare``: conditions of several runs in one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerkit.cli.paths import named, required
from steerkit.columns import console

if TYPE_CHECKING:
    from steerkit.report.compare import Comparison, Difference


def compare_command(
    runs: Annotated[
        list[Path],
        typer.Argument(parser=required, metavar="RUN RUN…", help="Directories of finished runs, two or more."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", parser=named, metavar="FILE", help="Write a page with tables and plots.")
    ] = None,
) -> None:
    """Put conditions of several runs side by side where they saw the same examples, with what differs between them."""
    from steerkit.artifacts.files import require_file
    from steerkit.report.compare import compare_runs

    if html is not None:
        require_file(html, "the page", "Name another file with --html.")
    found = compare_runs(runs)
    if html is not None:
        from steerkit.report.compare_page import write_comparison

        write_comparison(found, html)
    if as_json:
        typer.echo(json.dumps(_as_json(found), indent=2, ensure_ascii=False, allow_nan=False))
        return
    from steerkit.report.compare_terminal import print_comparison

    print_comparison(found, console())
    if html is not None:
        typer.echo(f"\nPage: {html}")


def _as_json(found: Comparison) -> dict[str, Any]:
    return {
        "runs": {
            letter: {
                "path": str(run.path),
                "name": run.results.name,
                "title": run.title,
                "model": run.results.model.source,
                "seed": run.results.seed,
                "run_hash": run.origin.run_hash,
            }
            for letter, run in found.runs.items()
        },
        "recipe": _listed(found.recipe),
        "made_with": _listed(found.made_with),
        "data": dict(found.data),
        "rows": found.rows(),
        "called": list(found.called),
        "not_compared": list(found.alone),
    }


def _listed(differences: tuple[Difference, ...]) -> dict[str, Any]:
    return {one.key: dict(one.values) for one in differences}
