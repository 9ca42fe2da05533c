"""What is set side by side: the trade-off, heat maps, cosines, the first table; marks where the numbers are."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from steerkit.artifacts.reading import RecordEntry, Results
from steerkit.artifacts.results import CandidateEntry
from steerkit.intervals import wilson
from steerkit.report import load_run, write_report
from steerkit.report.cosines import make_alike
from steerkit.report.glance import foretold, make_glance, other_way
from steerkit.report.heat import make_heats
from steerkit.report.heat_plots import draw_heat
from steerkit.report.search import SearchView, make_searches
from steerkit.report.separation import make_separations
from steerkit.report.side_plots import make_beside
from steerkit.report.tables import make_blocks
from steerkit.report.tradeoff import make_tradeoff, pool
from steerkit.report.tradeoff_plots import draw_tradeoff
from tests.report.study import SITE, study

NB = "\u00a0"


def parsed(results: dict[str, Any] | None = None) -> Results:
    return Results.model_validate(study() if results is None else results)


def record(value: float | None, n: int, aggregate: str = "proportion", error: float | None = None) -> RecordEntry:
    return RecordEntry(
        condition="c", evaluator="e", data="d", value=value, n=n, aggregate=aggregate, standard_error=error, ci_low=0.1,
        ci_high=0.9,
    )  # fmt: skip


def test_rates_are_pooled_by_their_counts() -> None:
    found = pool([record(0.25, 8), record(0.75, 32)])
    assert found.value == pytest.approx(26 / 40) and found.n == 40
    assert (found.low, found.high) == wilson(26, 40)
    alone = pool([record(0.25, 8)])
    assert (alone.value, alone.low, alone.high) == (0.25, 0.1, 0.9), "one stays as it is"
    assert pool([record(0.25, 8), None]).value is None and pool([record(0.25, 8), record(None, 0)]).value is None


def test_means_are_pooled_with_their_errors() -> None:
    found = pool([record(1.0, 10, "mean", 0.3), record(3.0, 30, "mean", 0.1)])
    error = math.sqrt((10 * 0.3) ** 2 + (30 * 0.1) ** 2) / 40
    assert found.value == pytest.approx(2.5) and found.high == pytest.approx(2.5 + 1.959964 * error)
    assert pool([record(1.0, 10, "mean"), record(3.0, 30, "mean", 0.1)]).low is None
    assert pool([record(1.0, 10, "whole", 0.3), record(3.0, 30, "whole", 0.1)]).low is None


def test_points_of_a_tradeoff_are_where_the_numbers_are() -> None:
    tradeoff = make_tradeoff(parsed())
    assert tradeoff is not None and tradeoff.points[0].condition.name == "baseline"
    ablated = tradeoff.points[1]
    assert ablated.should.value == pytest.approx(2 / 32) and ablated.should_not.value == pytest.approx(1 / 64)
    assert ablated.controls == ((5 / 64, 30 / 32), (3 / 64, 29 / 32))
    (axes,) = draw_tradeoff(tradeoff).axes
    marks = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.get_lines() if line.get_marker() == "o"]
    assert marks == [
        (pytest.approx(100 * one.should_not.value), pytest.approx(100 * one.should.value)) for one in tradeoff.drawn
    ]  # fmt: skip
    assert sum(line.get_marker() == "D" for line in axes.get_lines()) == 4
    assert make_tradeoff(parsed({**study(), "tradeoff": None})) is None


def test_a_condition_without_one_of_its_values_is_not_drawn() -> None:
    results = study()
    for one in results["records"]:
        if (one["condition"], one["data"]) == ("added", "lookalikes.test"):
            one["value"] = None
    tradeoff = make_tradeoff(parsed(results))
    assert tradeoff is not None
    assert [point.condition.name for point in tradeoff.drawn] == ["baseline", "ablated", "prompted"]
    assert len(tradeoff.points) == 4


def heats(results: dict[str, Any] | None = None) -> Any:
    read = parsed(results)
    return make_heats(read, make_blocks(read), make_searches(read))


def test_a_search_is_positions_by_layers_with_what_was_chosen() -> None:
    (heat,) = heats()
    entry = parsed().searches[0]
    assert heat.columns == tuple(range(30)) and len(heat.rows) == 5 and heat.chosen == (3, 18)
    assert heat.chosen_on == ("harmful.validation", "harmless.validation")
    bypass, kl = heat.grids
    assert bypass.reference == 6.0 and bypass.values[3, 18] == entry.candidates[entry.chosen or 0].scores["bypass"]
    assert (0, 25) not in kl.values and (0, 25) in bypass.values and (0, 25) in heat.removed
    above, below = draw_heat(heat).axes
    framed = [patch for axes in (above, below) for patch in axes.patches if not patch.get_fill()]
    assert [patch.get_xy() for patch in framed] == [(18, 3), (18, 3)]


class Dosed(CandidateEntry):
    coefficient: float | None = None


def test_coefficients_of_candidates_are_rows() -> None:
    entry = parsed().searches[0]
    candidates = tuple(
        Dosed(
            position=-1, layer=layer, site=f"blocks.{layer}.resid_pre", scores={"bypass": layer * times},
            coefficient=times,
        )
        for times in (0.5, 2.0) for layer in (3, 4, 7)
    )  # fmt: skip
    view = SearchView(entry.model_copy(update={"candidates": candidates, "chosen": 4, "near_ties": ()}))
    (heat,) = make_heats(parsed({**study(), "searches": []}), (), [view])
    assert heat.rows == ("position −1 × 0.5", "position −1 × 2")
    drawn = draw_heat(heat)
    assert [text.get_text() for text in drawn.axes[0].get_yticklabels()] == list(heat.rows), "whole"
    assert "rows: position × coefficient" in [text.get_text() for text in drawn.legends[0].get_texts()]
    assert heat.columns == (3, 4, 7) and heat.chosen == (1, 1) and heat.grids[0].values[1, 2] == 14.0


def test_conditions_over_layers_and_coefficients_are_a_heat_map(make: Any) -> None:
    results = make.base()
    results["conditions"], results["records"] = [make.condition("baseline", "baseline")], [make.record("baseline", 1.0)]
    for layer in (4, 9):
        for times in (1.0, 3.0):
            does = {**make.add(times), "sites": [f"blocks.{layer}.resid_pre"]}
            name = f"at{layer}[coefficient={times:g}]"
            results["conditions"].append(
                make.condition(name, interventions=[does], sweep=f"at{layer}", swept={"coefficient": times})
            )
            results["records"].append(make.record(name, 1.0 + layer * times, difference=layer * times))
    other = make.condition("two", interventions=[make.add(1.0), make.add(2.0)])
    results["conditions"].append(other)
    results["records"].append(make.record("two", 99.0))
    (heat,) = heats(results)
    assert heat.kind == "conditions" and heat.rows == ("3", "1") and heat.columns == (4, 9) and heat.chosen is None
    assert heat.grids[0].values == {(0, 0): 12.0, (0, 1): 27.0, (1, 0): 4.0, (1, 1): 9.0}
    assert heats(make.base()) == (), "one layer is no heat map"


def test_cosines_as_a_table_and_by_layer() -> None:
    alike = make_alike(parsed())
    assert alike is not None and alike.names == ("harmfulness", "refusal")
    (line,) = alike.lines
    assert [layer for layer, _ in line.points] == list(range(30)) and [layer for layer, _ in line.own] == [18]
    assert alike.cells["refusal", "harmfulness"] == f"{line.own[0][1]:.2f}"
    results = study()
    results["cosines"] = [{"first": "a", "second": "b", "site": SITE, "other": "blocks.3.resid_pre", "cosine": -0.25}]
    apart = make_alike(parsed(results))
    assert apart is not None and apart.apart and apart.cells["a", "b"] == "−0.25*" and apart.lines == ()
    assert make_alike(parsed({**study(), "cosines": []})) is None


def test_the_first_table_groups_conditions_by_their_directions() -> None:
    read = parsed()
    glance = make_glance(read, make_blocks(read))
    assert [group.foretold for group in glance.groups] == [(("refusal", "differences agree 0.30, d′ 2.00"),), ()]
    first = glance.groups[0].rows[0]
    assert (first.row.condition.name, first.span, first.change) == ("ablated", 4, f"−87.5{NB}pp")
    assert first.interval == f"−105.5 to −69.5{NB}pp" and other_way(first.row.record) == f"3{NB}%"
    assert glance.left_out == 0
    harmfulness = read.directions[0]
    assert foretold(harmfulness) == "differences agree 0.30 to 0.59, d′ 2.00 to 4.90, over 30 sites"
    assert foretold(harmfulness, ["blocks.4.resid_pre"]) == "differences agree 0.34, d′ 2.40"
    assert foretold(harmfulness.model_copy(update={"predictors": {}})) == "not measured"
    from_file = harmfulness.model_copy(update={"predictors": {}, "positive": None})
    assert foretold(from_file) == "not measured, since it comes without prompts"


def test_within_a_sweep_the_first_table_shows_the_ends(results: dict[str, Any]) -> None:
    read = parsed(results)
    glance = make_glance(read, make_blocks(read))
    names = [one.row.condition.name for group in glance.groups for one in group.rows]
    assert names == ["warmer", "cooler", "dose[coefficient=-8]", "dose[coefficient=8]"] and glance.left_out == 2


def test_an_early_layer_that_tells_all_apart_is_hinted_at(results: dict[str, Any]) -> None:
    (plain,) = make_separations(parsed(results))
    assert plain.surface == ""
    results["separation"][2]["auroc"] = 0.996
    (hinted,) = make_separations(parsed(results))
    assert hinted.surface.startswith("AUROC is 1.00 at layer 2 already: so early it may be a surface feature")
    results["separation"][2]["auroc"] = 0.99
    results["separation"][15]["auroc"] = results["separation"][20]["auroc"] = 1.0
    (late,) = make_separations(parsed(results))
    assert late.chosen is not None and late.chosen.layer == 15 and late.surface == "", "not before what was chosen"


def test_the_page_holds_them_and_a_second_writing_gives_the_same_bytes(build: Any) -> None:
    path = build(study(), samples=[])
    page = write_report(path).read_text("utf-8")
    for anchor in ("short", "tradeoff", "heat", "alike"):
        assert f'<section id="{anchor}">' in page and f'href="#{anchor}"' in page
    assert {one.name.partition("-")[0] for one in (path / "plots").iterdir()} == {
        "conditions", "search", "tradeoff", "heat", "cosines",
    }  # fmt: skip
    assert write_report(path).read_text("utf-8") == page
    read = load_run(path).results
    assert all(plot.svg for plot in make_beside(read, make_blocks(read)).plots)


def test_the_first_table_has_short_labels_for_a_narrow_screen(build: Any) -> None:
    page = write_report(build(study(), samples=[])).read_text("utf-8")
    table = page[page.index('<table class="stack glance">') :].partition("</table>")[0]
    rows = table.split("<tr>")[1:]
    labels = [label for row in rows[-1:] for label in re.findall(r'data-label="([^"]*)"', row)]
    assert labels == ["→", "other way", "random"], "what two labels say stands between and beside the values"
    assert len(rows) - 1 == 3 * 4 and page.count('class="stack glance"') == 1
    assert "on a narrow screen an arrow leads from the value without steering to that with it" in page


def test_a_run_without_any_of_it_has_none_of_the_sections(plain_run: Any) -> None:
    page = (plain_run / "report.html").read_text("utf-8")
    assert '<section id="short">' in page
    assert not any(f'id="{anchor}"' in page for anchor in ("tradeoff", "heat", "alike"))


@pytest.mark.parametrize("lacking", [None, "lookalikes.test"])
def test_pale_diamonds_are_explained_where_there_are_any(build: Any, lacking: str | None) -> None:
    results = study()
    results["records"] = [
        one for one in results["records"] if one["data"] != lacking or "/random-" not in one["condition"]
    ]  # fmt: skip
    tradeoff = make_tradeoff(parsed(results))
    assert tradeoff is not None
    figure = draw_tradeoff(tradeoff)
    page = write_report(build(results, samples=[])).read_text("utf-8")
    assert ("pale diamonds" in page) is bool(figure.legends) is (lacking is None)


def test_a_side_that_was_not_judged_says_so() -> None:
    results = study()
    results["evaluators"][0]["role"] = "judge"
    for one in results["records"]:
        if (one["condition"], one["data"]) == ("added", "harmful.test"):
            one.update(value=None, n=0, not_computed=32)
    tradeoff = make_tradeoff(parsed(results))
    assert tradeoff is not None
    assert {point.condition.name: point.should.absent for point in tradeoff.points if not point.measured} == {
        "added": "not judged"
    }  # fmt: skip
