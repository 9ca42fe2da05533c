"""Of a direction: what its site is called, which d′ is no number, and which separation isn't shown and why."""

from __future__ import annotations

from typing import Any

import pytest

from steerkit.artifacts.reading import DirectionEntry, Results
from steerkit.report import write_report
from steerkit.report.glance import foretold
from steerkit.report.plots import _draw_separation
from steerkit.report.separation import make_separations
from tests.report.study import study


@pytest.mark.parametrize(
    ("searched", "role", "mark"), [(False, "read at", "(read here)"), (True, "chosen", "(chosen)")]
)
def test_a_site_is_chosen_only_where_a_search_chose_it(
    results: dict[str, Any], build: Any, searched: bool, role: str, mark: str
) -> None:
    if searched:
        results["searches"] = [{**study()["searches"][0], "name": "warmth"}]
    (separation,) = make_separations(Results.model_validate(results))
    said = [text.get_text() for text in _draw_separation(separation).texts]
    assert f"{role} blocks.15.resid_pre: AUROC 0.98, d′ 2.85" in said
    page = write_report(build(results)).read_text("utf-8")
    section = page.partition('<section id="separation">')[2].partition("</section>")[0]
    assert f"blocks.15.resid_pre {mark}" in section and section.count("(read here)") + section.count("(chosen)") == 1


def apart(*values: float | None) -> DirectionEntry:
    predictors = {f"blocks.{at}.resid_pre": {"agreement": 0.5, "d_prime": one} for at, one in enumerate(values)}
    return DirectionEntry.model_validate({"name": "d", "positive": "a", "negative": "b", "predictors": predictors})


def test_a_d_prime_that_rounding_made_is_no_number(results: dict[str, Any], build: Any) -> None:
    why = "where the prompts of a class don’t vary or there is one of them"
    said = f"differences agree 0.50 over 3 sites, d′ 7.68 to 9.10 (not computed at 1 of these, {why})"
    assert foretold(apart(1.13e16, 7.68, 9.1)) == foretold(apart(None, 7.68, 9.1)) == said
    assert foretold(apart(-1.13e16)) == (
        "differences agree 0.50, d′ not computed, since the prompts of a class don’t vary or there is one of them"
    )
    assert foretold(apart(7.68, 9.1)) == "differences agree 0.50, d′ 7.68 to 9.10, over 2 sites"
    entry = next(one for one in results["separation"] if one["site"] == "blocks.15.resid_pre")
    entry["d_prime"] = 1.13e16
    (separation,) = make_separations(Results.model_validate(results))
    assert all(value < 1e6 for curve in separation.curves for _, value in curve.points("d_prime"))
    page = write_report(build(results)).read_text("utf-8")
    assert "1.13×10" not in page and page.count('<span class="none">not computed</span>') == 1


def test_the_page_says_of_which_direction_no_separation_is_shown(results: dict[str, Any], build: Any) -> None:
    search = {**study()["searches"][0], "name": "found"}
    results["searches"] = [search]
    results["directions"].append({**results["directions"][0], "name": "found"})
    page = write_report(build(results)).read_text("utf-8")
    assert "Not shown here: found. A search chose its site and position, and what it scored by layer is under" in page
    results["searches"] = []
    assert "Not shown here" not in write_report(build(results)).read_text("utf-8")
