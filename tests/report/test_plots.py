"""The figures: made for each case, the same bytes each time, marks where the numbers are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from steerkit.artifacts.reading import Results
from steerkit.report.plots import _draw_conditions, _draw_dose, _draw_separation, draw_all, rows_shown
from steerkit.report.separation import make_separations
from steerkit.report.svg import THEME
from steerkit.report.tables import make_blocks


def draw(results: dict[str, Any]) -> Any:
    parsed = Results.model_validate(results)
    return draw_all(make_blocks(parsed), make_separations(parsed))


def first_block(results: dict[str, Any]) -> Any:
    return make_blocks(Results.model_validate(results))[0]


def lines(axes: Any, marker: str) -> list[tuple[list[float], list[float]]]:
    return [
        ([float(x) for x in line.get_xdata()], [float(y) for y in line.get_ydata()])
        for line in axes.get_lines()
        if line.get_marker() == marker
    ]


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_every_file_is_whole_xml_and_says_the_same_twice(results: dict[str, Any]) -> None:
    plots = draw(results)
    assert [plot.file for plot in plots] == [
        "conditions-1-choice_logit_difference-probe.test.svg",
        "dose-1-dose-choice_logit_difference-probe.test.svg",
        "separation-1-warmth-warm.test-cold.test.svg",
    ]
    assert plots == draw(results)
    for plot in plots:
        ElementTree.fromstring(plot.svg)
        assert "<metadata" not in plot.svg and "Matplotlib" not in plot.svg


def test_conditions_are_where_the_numbers_are(results: dict[str, Any]) -> None:
    block = first_block(results)
    (axes,) = _draw_conditions(block).axes
    marks = lines(axes, "o")
    assert [x for (x,), _ in marks] == [row.value for row in block.all_rows]
    means = lines(axes, "D")
    assert [x for (x,), _ in means] == [row.control.mean for row in block.rows]
    plain = [xs for xs, _ in lines(axes, "None")]
    for row in block.rows:
        assert list(row.interval) in plain
        assert [row.control.low, row.control.high] in plain
    assert plain.count([block.baseline.value, block.baseline.value]) == 1


def test_names_and_axes_are_written_as_text(results: dict[str, Any]) -> None:
    conditions, dose, separation = draw(results)
    assert {"baseline", "warmer", "dose[coefficient=-8]", "choice_logit_difference (nats)"} <= set(
        texts(conditions.svg)
    )
    assert {"dose", "baseline", "coefficient", "−8", "0"} <= set(texts(dose.svg))
    assert {"AUROC", "chance", "read at blocks.15.resid_pre: AUROC 0.98, d′ 2.85"} <= set(texts(separation.svg))


def test_dose_response_passes_through_the_baseline(results: dict[str, Any]) -> None:
    block = first_block(results)
    (axes,) = _draw_dose(block, block.sweeps[0]).axes
    curve = next(line for line in lines(axes, "o") if len(line[0]) > 1)
    assert curve[0] == [-8.0, -4.0, 0.0, 4.0, 8.0]
    assert curve[1][2] == -1.2043
    mean = lines(axes, "D")[0]
    assert mean[0] == [-8.0, -4.0, 0.0, 4.0, 8.0]


def test_dose_response_is_broken_where_a_point_was_not_measured(results: dict[str, Any]) -> None:
    for record in results["records"]:
        if record["condition"] == "dose[coefficient=-4]":
            record["value"] = None
    block = first_block(results)
    (axes,) = _draw_dose(block, block.sweeps[0]).axes
    assert [xs for xs, _ in lines(axes, "o")] == [[-8.0], [0.0, 4.0, 8.0], [0.0]]


def test_dose_response_without_zero_or_control(results: dict[str, Any]) -> None:
    for condition in results["conditions"]:
        condition["swept"] = dict(zip(("angle",), condition["swept"].values(), strict=False))
    results["conditions"] = [c for c in results["conditions"] if c["kind"] != "control"]
    names = {c["name"] for c in results["conditions"]}
    results["records"] = [r for r in results["records"] if r["condition"] in names]
    block = first_block(results)
    (axes,) = _draw_dose(block, block.sweeps[0]).axes
    assert [xs for xs, _ in lines(axes, "o")] == [[-8.0, -4.0, 4.0, 8.0]]
    assert lines(axes, "D") == []


def test_proportions_are_drawn_in_percent(results: dict[str, Any], make: Any) -> None:
    results["records"] = [make.rate(c["name"], 4) for c in results["conditions"]]
    (axes,) = _draw_conditions(first_block(results)).axes
    assert {x for (x,), _ in lines(axes, "o")} == {25.0}
    assert axes.get_xlabel() == "refusal_rate (%)"


def test_separation_marks_the_chosen_site_and_breaks_at_gaps(results: dict[str, Any]) -> None:
    results["separation"][7]["auroc"] = None
    (item,) = make_separations(Results.model_validate(results))
    above, _ = _draw_separation(item).axes
    pieces = [xs for xs, _ in lines(above, "o")]
    assert pieces == [[float(k) for k in range(7)], [float(k) for k in range(8, 31)], [15.0]]
    assert item.chosen is not None and item.chosen.layer == 15


def test_a_direction_at_a_blocks_end_is_found_at_the_next_ones_start(results: dict[str, Any]) -> None:
    results["directions"][0]["site"] = "blocks.14.resid_post"
    (item,) = make_separations(Results.model_validate(results))
    assert item.chosen is not None and item.chosen.site == "blocks.15.resid_pre"


def test_nothing_measured_draws_nothing(results: dict[str, Any]) -> None:
    for record in results["records"]:
        record["value"] = None
    for entry in results["separation"]:
        entry.update(auroc=None, d_prime=None)
    assert draw(results) == ()


def test_one_condition_without_sweep(results: dict[str, Any], make: Any) -> None:
    results["conditions"] = [make.condition("baseline", "baseline"), make.condition("only")]
    results["records"] = [make.record("baseline", 1.0), make.record("only", 2.0, half=None, n=1)]
    results["separation"] = []
    assert [plot.key for plot in draw(results)] == ["conditions-1"]


def test_many_conditions_leave_sweeps_to_their_own_figures(make: Any) -> None:
    block = first_block(make.odd())
    names = {row.condition.name for row in rows_shown(block)}
    assert "layer-0" in names and not any(name.startswith("wide[") for name in names)


def test_odd_names_are_shown_as_they_are(odd_run: Path) -> None:
    for path in sorted((odd_run / "plots").iterdir()):
        assert re.fullmatch(r"[a-z0-9_.-]+\.svg", path.name)
    shown = texts((odd_run / "plots" / "conditions-1-choice_logit_difference-probe.test.svg").read_text("utf-8"))
    assert "<script>ale…)</script>" in shown
    assert "温暖 🙂 دافئ" in shown
    assert "$x_1$ a nam…re in full" in shown


def test_inlined_figures_have_ids_of_their_own_and_follow_the_theme(results: dict[str, Any]) -> None:
    seen: set[str] = set()
    for plot in draw(results):
        ids = re.findall(r'\bid="([^"]+)"', plot.inline)
        assert len(ids) == len(set(ids)) and not seen & set(ids)
        seen |= set(ids)
        used = re.findall(r'(?:href="#|url\(#)([^")]+)', plot.inline)
        assert used and set(used) <= set(ids)
        styles = re.findall(r"(?:fill|stroke): ([^;\"]+)", plot.inline)
        plain = {style for style in styles if not style.startswith("var(--") and style != "none"}
        assert plain == set(), plain
        variables = set(re.findall(r"var\(--([a-z0-9-]+),", plot.inline))
        assert variables <= set(THEME.values()) and "ink" in variables
        assert 'role="img"' in plot.inline and "<?xml" not in plot.inline


@pytest.mark.parametrize("text", ['id="a" url(#b)', "fill: #0072b2", "<!-- x -->", "a\x00b"])
def test_what_a_name_says_is_left_alone(results: dict[str, Any], text: str) -> None:
    results["conditions"][1]["name"] = results["conditions"][2]["of"] = text
    for condition in results["conditions"]:
        if condition["of"] == "warmer":
            condition["of"] = text
    for record in results["records"]:
        record["condition"] = text if record["condition"] == "warmer" else record["condition"]
    plot = draw(results)[0]
    ElementTree.fromstring(plot.svg)
    assert text.replace("\x00", "\ufffd") in texts(plot.svg)
    assert text.replace("\x00", "\ufffd").replace("<", "&lt;").replace(">", "&gt;") in plot.inline
