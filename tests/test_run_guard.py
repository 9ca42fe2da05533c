"""A monitor whose threshold is set by its false alarms, and what it still catches: planned, run and reported."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.artifacts.reading import load_run
from steerkit.catalog import Catalog
from steerkit.errors import DataError, RecipeError
from steerkit.plan import Plan, plan_recipe
from steerkit.report import write_report
from steerkit.report.guards import make_guards
from steerkit.run import run_recipe
from steerkit.stages.thresholds import threshold_of

RECIPE = """\
name: guard
seed: 3
model: {source: "tiny-random:llama", dtype: float32}
data:
  bad: {inline: [zb1, zb2, zb3, zb4, zb5, zb6, zb7], split: {train: 4, test: 3}}
  good: {inline: [g1, g2, g3, g4, g5, g6, g7, g8, g9, h1, h2, h3], split: {train: 4, validation: 5, test: 3}}
  both: {of: {bad: bad, good: good}}
  marked: {of: {bad: bad}, suffix: " wuz"}
  marked_too: {of: {bad: marked, good: good}}
directions:
  badness: {estimator: mean_difference, positive: bad.train, negative: good.train, site: blocks.1.resid_post}
monitors:
  watch:
    direction: badness
    calibrate: {data: good.validation, false_alarms: 250}
    positions: "-1"
conditions:
  gone: [{ablate: {direction: badness}}]
evaluate:
  - monitor_auroc: {data: [both.test, marked_too.test], monitor: watch, positive: bad}
control: {random_directions: 2}
report: {samples: {data: both.test, n: 2, max_new_tokens: 2}}
"""


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=60), st.floats(0, 999), st.sampled_from(["above", "below"]))
def test_no_more_cross_than_may_and_a_nearer_threshold_would_let_more(
    peaks: list[float], false_alarms: float, side: Any
) -> None:
    threshold, beyond = threshold_of(peaks, false_alarms, side)
    crossing = [one for one in peaks if (one > threshold if side == "above" else one < threshold)]
    assert len(crossing) == beyond <= len(peaks) * false_alarms / 1000 + 1e-6
    nearer = [one for one in peaks if (one >= threshold if side == "above" else one <= threshold)]
    assert len(nearer) > len(peaks) * false_alarms / 1000 - 1e-6, "the next one would be one too many"


def test_without_ties_exactly_so_many_cross() -> None:
    assert threshold_of(list(range(100)), 30.0) == (96, 3)
    assert threshold_of(list(range(100)), 0.0) == (99, 0)
    assert threshold_of(list(range(100)), 290.0) == (70, 29)
    assert threshold_of(list(range(100)), 30.0, "below") == (3, 3)
    with pytest.raises(DataError, match="1 of 2 examples has no token"):
        threshold_of([1.0, math.nan], 10.0)


def planned(folder: Path, text: str = RECIPE) -> Plan:
    (folder / "guard.yaml").write_text(text)
    return plan_recipe(folder / "guard.yaml", (), Catalog.discover())


def test_a_threshold_that_is_to_be_set_is_planned_and_counted(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    (monitor,) = plan.to_json()["monitors"]
    assert monitor["calibrate"] == {"data": "good.validation", "false_alarms": 250.0} and "above" not in monitor
    assert ("thresholds of monitors", 1) in plan.cost.parts
    few = planned(tmp_path, RECIPE.replace("false_alarms: 250", "false_alarms: 10"))
    assert (
        "Monitor 'watch': 5 examples of good.validation can't tell 10 false alarms per 1,000: one of them is 200; its "
        "threshold is the reading that goes furthest among them."
    ) in few.notes
    written = planned(tmp_path, RECIPE.replace("positive: bad}", "positive: bad, max_new_tokens: 3}"))
    assert any(
        "has its threshold from prompts, and monitor_auroc reads completions too" in one for one in written.notes
    )


@pytest.mark.parametrize(
    ("before", "after", "where", "message"),
    [
        ("good.validation", "good.test", "calibrate.data", "set the threshold on validation"),
        ("good.validation", "good.valid", "calibrate.data", "good.valid"),
        ("false_alarms: 250", "false_alarms: 1000", "calibrate.false_alarms", "1000"),
        ('positions: "-1"', 'positions: "-1"\n    above: 3', "above", "calibrate sets the threshold; remove above"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, before: str, after: str, where: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        planned(tmp_path, RECIPE.replace(before, after))
    found = [one for one in caught.value.problems if one.where.startswith("monitors.watch")]
    assert any(message in one.message and where in f"{one.where}.{one.message}" for one in found), caught.value.problems


def test_the_run_sets_it_on_validation_and_says_what_is_still_caught(tmp_path: Path) -> None:
    (tmp_path / "guard.yaml").write_text(RECIPE)
    run = run_recipe(tmp_path / "guard.yaml", out=tmp_path / "runs")
    results = json.loads((run / "results.json").read_text())
    (monitor,) = results["monitors"]
    records = {(one["condition"], one["evaluator"], one["data"]): one for one in results["records"]}
    auroc = records["baseline", "monitor_auroc", "both.test"]
    caught, alarms = (records["baseline", name, "both.test"] for name in ("caught", "false_alarms"))
    assert auroc["value"] is not None and caught["n"] == alarms["n"] == 3
    assert caught["aggregate"] == alarms["aggregate"] == "proportion" and caught["ci_high"] > caught["ci_low"]
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    read = [one["readings"]["watch"] for one in samples if one.get("readings") and one["condition"] == "baseline"]
    assert read and all(one["crossed"] == (one["peak"] > monitor["above"]) for one in read)
    # Of an example of the other class it says nothing, not that it was caught, or was none.
    told = {one["example"]["label"]: one["scores"] for one in samples if one["data"] == "both.test"}
    assert told["bad"]["false_alarms"] is None and told["good"]["caught"] is None
    assert None not in (told["bad"]["caught"], told["good"]["false_alarms"], told["bad"]["crossed"])
    # Four of five readings on validation lie at or below it, one above: 250 of 1,000 is one of five.
    assert monitor["calibrate"] == {"data": "good.validation", "false_alarms": 250.0}
    assert expected_threshold(run) == monitor["above"]
    # Nothing is left along what was ablated everywhere, so nothing crosses on either side beyond rounding.
    gone = records["gone", "peak_reading", "both.test"]
    assert abs(gone["value"]) < 1e-4 < abs(records["baseline", "peak_reading", "both.test"]["value"])
    (table,) = make_guards(load_run(run).results)
    assert [(row.data, row.condition) for row in table.rows] == [
        (data, condition) for data in ("both.test", "marked_too.test") for condition in ("baseline", "gone")
    ]
    assert "at most 250 per 1,000 of good.validation cross without any condition" in table.threshold
    assert table.resolution.startswith("One of 3 prompts is 333 per 1,000")
    assert table.rows[0].controls == "" and table.rows[1].controls.count(" · ") == 2
    page = write_report(run).read_text("utf-8")
    assert "What the monitor still catches" in page


def expected_threshold(run: Path) -> float:
    """By hand: the second highest projection of the last token of five prompts."""
    import torch

    from steerkit.artifacts.directions import load_directions
    from steerkit.session import load_model

    live = load_model("tiny-random:llama", dtype="float32")
    vector = load_directions(run / "directions.safetensors")["badness"].vectors[0]
    plan = planned(run.parent)
    examples = list(plan.data["good"]["validation"])
    captured = live.capture(examples, ["blocks.1.resid_post"], -1, kind="rows")
    (statistics,) = captured.values()
    assert statistics.rows is not None
    readings = (statistics.rows @ (vector / vector.norm())).double()
    return float(torch.sort(readings, descending=True).values[1])
