"""Figures that can be read: nothing on top of something else, shapes beside colours, units, what colours mean."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import pytest

from steerkit.artifacts.reading import Results
from steerkit.report.heat import make_heats
from steerkit.report.heat_plots import draw_heat
from steerkit.report.search import make_searches
from steerkit.report.search_plots import draw_search
from steerkit.report.separation import make_separations
from steerkit.report.svg import MARKERS, SERIES
from steerkit.report.tables import make_blocks
from steerkit.report.tradeoff import make_tradeoff
from steerkit.report.tradeoff_plots import draw_tradeoff
from tests.report.study import DATA, proportion, study


def crowded() -> Results:
    """A study with eight conditions at one corner of the trade-off, some on one spot."""
    results = study()
    for number in range(8):
        name = f"near-{number}"
        results["conditions"].append({"name": name, "kind": "intervention", "interventions": []})
        hits = (number // 2, number % 3, number // 4)
        results["records"] += [proportion(name, data, at) for data, at in zip(DATA, hits, strict=True)]
    return Results.model_validate(results)


def boxes(figure: Any, texts: Any) -> list[Any]:
    figure.draw_without_rendering()
    return [one.get_window_extent() for one in texts]


def test_numbers_of_a_tradeoff_stand_apart_from_each_other_and_from_marks() -> None:
    tradeoff = make_tradeoff(crowded())
    assert tradeoff is not None
    figure = draw_tradeoff(tradeoff)
    axes = figure.axes[0]
    numbers = [text for text in axes.texts if text.get_text()[0].isdigit()]
    # Each condition has its number, once; those on one spot share it.
    told = sorted(int(number) for text in numbers for number in text.get_text().split(", "))
    assert told == list(range(len(tradeoff.drawn)))
    # The box of an annotation with a line holds the line too, so the words alone are asked.
    figure.draw_without_rendering()
    centres = [text.get_transform().transform(text.get_position()) * 72 / figure.dpi for text in numbers]
    assert all(math.dist(one, other) > 8 for one, other in combinations(centres, 2))
    marks = [
        axes.transData.transform((line.get_xdata()[0], line.get_ydata()[0])) * 72 / figure.dpi
        for line in axes.lines if line.get_marker() == "o"
    ]  # fmt: skip
    assert all(math.dist(centre, mark) > 6 for centre in centres for mark in marks)


def test_the_key_of_a_search_is_apart_from_its_axis() -> None:
    (view,) = make_searches(Results.model_validate(study()))
    figure = draw_search(view)
    (key,) = boxes(figure, figure.legends)
    (axis,) = boxes(figure, [figure.axes[-1].xaxis.label])
    assert key.y1 < axis.y0


def test_lines_of_a_search_differ_in_shape_and_scores_have_units() -> None:
    results = study()
    results["evaluators"].append({"name": "refusal_score", "unit": "log-odds"})
    (view,) = make_searches(Results.model_validate(results))
    assert {panel.name: panel.unit for panel in view.panels} == {"bypass": "log-odds", "kl": "nats"}
    figure = draw_search(view)
    assert "bypass (log-odds)" in [figure.axes[0].get_title(loc=where) for where in ("left", "center")]
    drawn = [line for line in figure.axes[0].lines if line.get_color() in SERIES and len(line.get_xdata()) > 2]
    shapes = {line.get_color(): line.get_marker() for line in drawn}
    assert len(shapes) == 5 and len(set(shapes.values())) == 5 and len(MARKERS) == len(SERIES)


def test_a_score_has_no_unit_of_another_plugin_that_the_recipe_calls_by_its_name() -> None:
    results = study()
    results["searches"][0]["scores"]["bypass"]["options"] = {"tokens": [1, 2], "first": 1}
    results["evaluators"].append({"name": "refusal_score", "unit": "tokens", "options": {"max_new_tokens": 8}})
    (view,) = make_searches(Results.model_validate(results))
    assert {panel.name: panel.unit for panel in view.panels} == {"bypass": "", "kl": "nats"}
    # The same options with other values are of the same plugin.
    results["evaluators"][-1] = {"name": "refusal_score", "unit": "log-odds", "options": {"first": 2, "tokens": []}}
    (view,) = make_searches(Results.model_validate(results))
    assert {panel.name: panel.unit for panel in view.panels} == {"bypass": "log-odds", "kl": "nats"}


def test_a_heat_map_has_its_titles_whole_and_says_what_colours_mean() -> None:
    read = Results.model_validate(study())
    (heat,) = make_heats(read, make_blocks(read), make_searches(read))
    figure = draw_heat(heat)
    said = [text.get_text() for text in figure.texts]
    assert "bypass: refusal_score on harmful.validation, under ablate" in said
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"below untouched", "above untouched", "not measured", "chosen", "removed"} <= set(words)
    captions = boxes(figure, figure.texts)
    panels = [axes.get_tightbbox() for axes in figure.axes]
    assert not any(caption.overlaps(panel) for caption in captions for panel in panels)
    assert not any(one.overlaps(other) for one, other in combinations(captions, 2))


@pytest.mark.parametrize(("several", "says"), [(True, "a vector at each site"), (False, "not among these")])
def test_where_no_site_was_chosen_it_says_why(results: dict[str, Any], several: bool, says: str) -> None:
    from steerkit.report.plots import _draw_separation

    results["directions"][0]["site"] = "blocks.0.resid_pre … blocks.29.resid_pre (30 sites)" if several else "embed"
    if several:
        results["directions"][0]["norms_by_site"] = {f"blocks.{at}.resid_pre": [1.0] for at in range(30)}
    (separation,) = make_separations(Results.model_validate(results))
    assert any(says in text.get_text() for text in _draw_separation(separation).texts)
