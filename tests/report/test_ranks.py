"""Behaviour against the number of directions removed: sentences and figure are made from the numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steerkit.artifacts.reading import Results
from steerkit.report import write_report
from steerkit.report.plots import draw_all
from steerkit.report.rank_plots import draw_ranks
from steerkit.report.ranks import RankView, make_ranks
from steerkit.report.tables import make_blocks
from tests.report.conftest import Build, condition, controls, rate

RANKS = (1, 2, 4, 8)


def removed(base: dict[str, Any], **families: tuple[int, ...]) -> dict[str, Any]:
    """A run in which each family leaves so many refusals of 16 when 1, 2, 4, 8 directions are removed."""
    made: dict[str, Any] = {**base, "separation": [], "conditions": [], "records": [], "evaluators": []}
    made["evaluators"] = [{"name": "refusal_rate", "aggregate": "proportion", "unit": "fraction"}]
    made["conditions"].append(condition("baseline", "baseline"))
    made["records"].append({**rate("baseline", 16), "data": "requests.test"})
    for name, hits in families.items():
        for rank, left in zip(RANKS, hits, strict=True):
            ablate = {"name": "ablate", "direction": name, "options": {"coefficient": 1.0, "rank": rank}}
            entry = condition(f"{name}[rank={rank}]", interventions=[ablate], sweep=name, swept={"rank": rank})
            made["conditions"] += [entry, *controls(entry, 2)]
            change = {"difference": left / 16 - 1, "difference_ci_low": left / 16 - 1.2, "difference_ci_high": -0.01}
            if left == 16:
                change["difference_ci_high"] = 0.1
            made["records"].append({**rate(entry["name"], left), **change})
            made["records"] += [rate(one["name"], 15 + at) for at, one in enumerate(controls(entry, 2))]
    return made


def views(made: dict[str, Any]) -> tuple[RankView, ...]:
    return make_ranks(make_blocks(Results.model_validate(made)))


def test_one_carrier_and_several_read_differently(results: dict[str, Any]) -> None:
    (view,) = views(removed(results, narrow=(0, 0, 0, 0), wide=(14, 12, 8, 0), nothing=(16, 16, 16, 16)))
    told = dict(view.sentences)
    assert told["narrow"].startswith(
        "One direction removed: from 100.0\u00a0% to 0.0\u00a0% (95\u00a0% interval 0.0 to"
    )
    assert told["narrow"].endswith("The first one makes 100\u00a0% of the change that all 8 make.")
    assert told["wide"].endswith("The first one makes 12\u00a0% of the change that all 8 make.")
    assert told["nothing"].endswith("is not told from none, so there is none to be parted among them.")
    assert "8 random ones, two draws: 93.8 to 100.0" in told["wide"]


def test_the_figure_stands_at_the_numbers_from_the_baseline_on(results: dict[str, Any]) -> None:
    (view,) = views(removed(results, narrow=(0, 0, 0, 0), wide=(14, 12, 8, 0)))
    assert view.ranks == (0, 1, 2, 4, 8)
    figure = draw_ranks(view)
    (axes,) = figure.axes
    curves = [line for line in axes.get_lines() if line.get_marker() == "o" and len(line.get_xdata()) == 5]
    assert [list(line.get_ydata()) for line in curves] == [[100.0, 0, 0, 0, 0], [100.0, 87.5, 75.0, 50.0, 0]]
    assert [list(line.get_xdata()) for line in curves] == [[0, 1, 2, 3, 4]] * 2
    random = [line for line in axes.get_lines() if line.get_marker() == "D"]
    assert [list(line.get_ydata()) for line in random] == [[100.0, *[96.875] * 4]] * 2
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "1", "2", "4", "8"]


def test_a_sweep_over_ranks_has_this_figure_and_no_dose_response(results: dict[str, Any]) -> None:
    blocks = make_blocks(Results.model_validate(removed(results, narrow=(0, 0, 0, 0))))
    assert [plot.key for plot in draw_all(blocks, ())] == ["conditions-1", "ranks-1"]


def test_the_page_shows_it(results: dict[str, Any], build: Build, tmp_path: Path) -> None:
    folder = build(removed(results, narrow=(0, 0, 0, 0)))
    page = write_report(folder).read_text("utf-8")
    assert "How many directions carry it" in page and "The first one makes 100\u00a0% of the change" in page
    assert [path.name for path in (folder / "plots").glob("ranks-*")] == ["ranks-1-refusal_rate-requests.test.svg"]
    assert "How many directions carry it" not in write_report(build(results)).read_text("utf-8")


def test_without_a_baseline_there_is_no_curve(results: dict[str, Any]) -> None:
    made = removed(results, narrow=(0, 0, 0, 0))
    made["records"] = [one for one in made["records"] if one["condition"] != "baseline"]
    assert views(made) == ()
