"""``steerkit report``: write the report of a run again, from its directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report_command(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The directory that `steerkit run` printed.")],
) -> None:
    """Write plots and report.html again from what a run directory holds, and print its summary."""
    from steerkit.report import summary, write_report

    write_report(run_dir)
    summary(run_dir)
