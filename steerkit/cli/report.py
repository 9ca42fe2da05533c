"""``steerkit report``: write the report of a run again, or the comparison of a sweep, from its directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steerkit.cli.paths import required


def report_command(
    run_dir: Annotated[
        Path,
        typer.Argument(
            parser=required, metavar="RUN_DIR", help="The directory that `steerkit run` printed, or `steerkit sweep`."
        ),
    ],
) -> None:
    """Write plots and report.html again from what a run directory holds, or that of a sweep, and print its summary."""
    from steerkit.artifacts.sweeps import is_sweep

    if is_sweep(run_dir):
        from steerkit.columns import console
        from steerkit.report.sweep import read_sweep
        from steerkit.report.sweep_page import write_sweep_report
        from steerkit.report.sweep_terminal import print_sweep

        write_sweep_report(run_dir)
        print_sweep(read_sweep(run_dir), console())
        return
    from steerkit.report import load_run, lost_parts, summary, write_report

    write_report(run_dir)
    for part in lost_parts(load_run(run_dir)):
        typer.echo(part, err=True)
    summary(run_dir)
