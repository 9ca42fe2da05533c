"""The page: one file that opens offline, with the figures in it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from steerkit.bench import table
from steerkit.bench.bars import RULE, idle_is_nothing
from steerkit.bench.conditions import CASES
from steerkit.bench.plot import title_of
from steerkit.report.numbers import NOT_MEASURED

if TYPE_CHECKING:
    from steerkit.bench.study import Study
    from steerkit.report.svg import Plot

TEMPLATE: Final = "page.html.j2"


def render_page(studies: Sequence[Study], plots: Sequence[Plot]) -> str:
    """The whole page.

    Args:
        studies: what was measured.
        plots: what ``plot.draw`` drew of it, in its order.
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("steerkit.bench").joinpath(TEMPLATE).read_text(encoding="utf-8")
    drawn = iter(plots)
    views: list[dict[str, Any]] = []
    for study in studies:
        parts = [
            {
                "title": title_of(study, part),
                "rows": table.ratio_rows(study, part),
                "same": table.same_line(study, part),
                # matplotlib has escaped every text in it.
                "plot": Markup(next(drawn).inline),
                "error": max((one.error for one in part.checked), default=None),
            }
            for part in study.parts
        ]
        views.append(
            {
                "study": study,
                "parts": parts,
                "attach": table.attach_rows(study),
                "memory": table.memory_rows(study),
                "bars": table.bar_rows(study),
                "cold": table.cold_line(study) if study.cold_start is not None else None,
                "idle": idle_is_nothing(study),
                "cases": {case: CASES[case] for case in study.settings.cases},
            }
        )
    return environment.from_string(source).render(views=views, rule=RULE, NOT_MEASURED=NOT_MEASURED)
