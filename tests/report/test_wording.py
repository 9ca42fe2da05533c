"""Marks that stay visible, and words and signs that say one thing in one way."""

from __future__ import annotations

import re
from typing import Any

import pytest

from steerkit.artifacts.reading import Results
from steerkit.report import write_report
from steerkit.report.suffix_plots import draw_heads
from steerkit.report.suffixes import make_suffixes
from steerkit.report.tradeoff import make_tradeoff
from steerkit.report.tradeoff_plots import MARK, RING, draw_tradeoff
from tests.report.study import study
from tests.report.test_widths import suffixes


def test_the_baseline_is_a_ring_around_what_lies_on_its_spot_and_over_it() -> None:
    results = study()
    rates = [one for one in results["records"] if one["evaluator"] == "refused"]
    base = {one["data"]: one["value"] for one in rates if one["condition"] == "baseline"}
    for one in rates:
        if one["condition"] == "prompted":
            one["value"] = base[one["data"]]
    tradeoff = make_tradeoff(Results.model_validate(results))
    assert tradeoff is not None
    (axes,) = draw_tradeoff(tradeoff).axes
    lines = [one for one in axes.get_lines() if one.get_marker() == "o"]
    rings = [one for one in lines if one.get_fillstyle() == "none"]
    assert len(rings) == 1 and rings[0].get_markersize() == RING > MARK + 2 * rings[0].get_markeredgewidth()
    spot = [one for one in lines if list(one.get_xydata()[0]) == list(rings[0].get_xydata()[0])]
    mark, ring = sorted(spot, key=lambda one: one.get_zorder())
    assert mark.get_markersize() == MARK and ring is rings[0]
    # What lies below is covered, such as bars of others, and the mark of the other condition isn't.
    (ground,) = axes.collections
    assert ground.get_sizes()[0] == RING**2 and ground.get_zorder() < mark.get_zorder()


def test_marks_of_heads_keep_off_the_frame() -> None:
    (view,) = make_suffixes(Results.model_validate({**study(), "suffixes": [suffixes()]}))
    figure = draw_heads(view)
    figure.draw_without_rendering()
    for axes in figure.axes:
        low, high = axes.get_window_extent().intervaly
        for line in axes.get_lines():
            if line.get_marker() in ("None", None, ""):
                continue
            half = line.get_markersize() / 72 * figure.dpi / 2
            places = [float(axes.transData.transform(point)[1]) for point in line.get_xydata()]
            assert all(low + half < place < high - half for place in places)


@pytest.mark.parametrize(("alive", "said"), [(150, "all stayed"), (9, "nine of them stayed"), (0, "none stayed")])
def test_filters_of_a_search_are_told_in_words(build: Any, alive: int, said: str) -> None:
    results = study()
    results["searches"][0]["stages"] = [{"score": "kl", "asked": 150, "alive": alive}]
    page = write_report(build(results, samples=[])).read_text("utf-8")
    assert f"kl: computed for 150 candidates; {said}" in page and "left behind it" not in page


def test_positions_have_one_minus(build: Any) -> None:
    page = write_report(build(study(), samples=[])).read_text("utf-8")
    text = re.sub(r"<[^>]+>", "", page.partition('<section id="provenance">')[0])
    assert "position −2" in text and not re.search(r"position -\d", text)
