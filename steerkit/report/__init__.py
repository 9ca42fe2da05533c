"""The report: reads a run directory and nothing else, and writes ``plots/`` and ``report.html`` into it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from steerkit.artifacts.files import remove_halves, write_whole
from steerkit.artifacts.reading import Run, load_run
from steerkit.errors import ArtifactError
from steerkit.report.gaps import lost_parts

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Run", "load_run", "lost_parts", "summary", "write_report"]

_OURS: Final = re.compile(
    r"(conditions|dose|separation|search|tradeoff|heat|cosines|ranks|suffixes|suffix-heads)-\d+[^/]*\.svg"
)


def write_report(run_dir: Path | str) -> Path:
    """Write ``plots/*.svg`` and ``report.html`` from what the directory holds; return the path of the latter.

    Every file is written whole or not at all, and the page, which holds its own figures, last.

    Raises:
        ArtifactError: the directory is not a finished run, is damaged, or can't be written to.
    """
    from steerkit.report.html import render_html
    from steerkit.report.plots import draw_all
    from steerkit.report.search import make_searches
    from steerkit.report.separation import make_separations
    from steerkit.report.side_plots import make_beside
    from steerkit.report.tables import make_blocks

    run = load_run(run_dir)
    for place in (run.path, run.path / "plots"):
        remove_halves(place, deep=False)
    blocks = make_blocks(run.results)
    beside = make_beside(run.results, blocks)
    plots = draw_all(blocks, make_separations(run.results), make_searches(run.results))
    page = render_html(run, plots, beside)
    plots = (*plots, *beside.plots)
    folder, target = run.path / "plots", run.path / "report.html"
    try:
        folder.mkdir(exist_ok=True)
        for plot in plots:
            write_whole(folder / plot.file, plot.svg.encode())
        for stale in {path.name for path in folder.iterdir()} - {plot.file for plot in plots}:
            if _OURS.fullmatch(stale):
                (folder / stale).unlink()
        write_whole(target, page.encode())
    except OSError as error:
        raise ArtifactError(
            f"Can't write the report into {run.path}: {error.strerror}. Free some space or check its permissions, "
            f"then run `steerkit report {run.path}`; the measurements are kept."
        ) from None
    return target


def summary(run_dir: Path | str, console: Console | None = None) -> None:
    """Print what a run found, in 80 columns.

    Args:
        run_dir: the run directory.
        console: where to; standard output by default.

    Raises:
        ArtifactError: as ``load_run``.
    """
    from steerkit.columns import console as plain
    from steerkit.report.terminal import print_summary

    print_summary(load_run(run_dir), console or plain())
