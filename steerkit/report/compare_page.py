"""A comparison of runs as a page: one file that opens offline, in the looks of a run's report."""

from __future__ import annotations

from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steerkit.artifacts.files import require_file, write_whole
from steerkit.errors import ArtifactError
from steerkit.report.compare import Comparison
from steerkit.report.compare_terminal import written
from steerkit.report.html import TEMPLATE as REPORT_TEMPLATE
from steerkit.report.html import _breakable, _inline
from steerkit.report.numbers import NOT_MEASURED, clean, count, sentence_case
from steerkit.report.tables import Block

if TYPE_CHECKING:
    from steerkit.report.svg import Plot

TEMPLATE: Final = "compare.html.j2"


def write_comparison(found: Comparison, file: str | Path) -> Path:
    """Write the page, whole or not at all.

    Raises:
        ArtifactError: where it can't be written.
    """
    require_file(file, "the page", "Name another file with --html.")
    path = Path(file)
    try:
        write_whole(path, render_comparison(found).encode())
    except OSError as error:
        raise ArtifactError(f"Can't write {path}: {error.strerror}. Name another file with --html.") from None
    return path


def render_comparison(found: Comparison) -> str:
    """The whole page."""
    views = [(block, figures(block, number)) for number, block in enumerate(found.blocks, start=1)]
    return render_beside(TEMPLATE, found=found, views=views)


def render_beside(template: str, **values: Any) -> str:
    """A page about several runs, in the style of a report.

    Args:
        template: its file beside this one.
        values: what it shows.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: clean(value) if type(value) is str else value,
    )  # fmt: skip
    environment.globals.update(
        NOT_MEASURED=NOT_MEASURED, breakable=_breakable, count=count, sentence_case=sentence_case, svg=_inline,
        written=written,
    )  # fmt: skip
    read = partial(_text_of, "steerkit.report")
    style = read(REPORT_TEMPLATE).partition("<style>")[2].partition("</style>")[0]
    return environment.from_string(read(template)).render(style=style, **values)


def figures(block: Block, number: int) -> list[Plot]:
    """Conditions of all runs side by side; sweeps of many by themselves."""
    from steerkit.report.plots import MOST_ROWS, conditions_plot, dose_plot, is_dose, rows_shown

    found = [conditions_plot(block, number)] if rows_shown(block) else []
    if sum(row.value is not None for row in block.all_rows) > MOST_ROWS:
        doses = [sweep for sweep in block.sweeps if is_dose(sweep)]
        found += [dose_plot(block, sweep, 100 * number + place) for place, sweep in enumerate(doses)]
    return found


def _text_of(package: str, name: str) -> str:
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")
