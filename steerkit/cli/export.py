"""``steerkit export``: a condition of a run as a file for another engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steerkit.cli.paths import named, required
from steerkit.columns import console
from steerkit.errors import counted


def export_command(
    run: Annotated[Path, typer.Argument(parser=required, metavar="RUN", help="A finished run directory.")],
    condition: Annotated[str, typer.Option("--condition", metavar="NAME", help="Which condition, as results name it.")],
    to: Annotated[str, typer.Option("--to", metavar="KIND", help="What to write, as in program.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", parser=named, metavar="FILE", help="The file; named after condition and kind otherwise."),
    ] = None,
    monitor: Annotated[
        list[str] | None,
        typer.Option("--monitor", metavar="NAME", help="A monitor of the recipe that goes along; may be repeated."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over what is there.")] = False,
) -> None:
    """Write a condition as a file that another engine reads: a program for vLLM, or the files of others."""
    from steerkit.exporting import export

    with console(aside=True).status("reading the run"):
        made = export(run, condition, to, out, monitors=monitor or (), force=force)
    program = made.program
    what = f"{counted(len(program.updates), 'update')} at {counted(len(program.sites), 'place')}"
    typer.echo(f"{made.path}: {condition} as {to}, {what}; content {program.digest[:12]}.")
    for sentence in made.lost:
        typer.echo(sentence)
