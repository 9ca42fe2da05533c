"""A monitor whose tokens some texts lack has no reading on them, in a run that goes on and says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steerkit.errors import PositionError
from steerkit.run import run_recipe
from tests.plan.test_plan_unread_monitors import TALKS
from tests.small_run import RECIPE, results_of

WITH_TALKS = RECIPE.replace("data:\n", f"data:\n{TALKS}", 1).replace(
    "evaluate:\n", "evaluate:\n  - monitor_auroc: {data: talks, monitor: said, positive: kind}\n"
)
MONITOR = 'monitors:\n  said: {direction: warmth, above: 3.0, positions: "assistant[-1]"}\n'


def test_it_reads_where_it_can_and_nothing_elsewhere(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(WITH_TALKS + MONITOR)
    run = run_recipe(recipe, out=tmp_path / "runs")
    results = results_of(run)
    records = {(one["evaluator"], one["condition"]): one for one in results["records"] if one["data"] == "talks"}
    assert records["peak_reading", "baseline"]["value"] is not None, "conversations have the turn"
    (note,) = [note for note in results["notes"] if "Monitor 'said'" in note]
    assert "2 of 2 examples of cold.test have no such turn of the assistant's" in note
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text("utf-8").splitlines()]
    readings = [one["readings"]["said"] for one in samples if one.get("readings")]
    assert readings and all(one["peak"] is None and one["places"] == [] for one in readings)


def test_a_threshold_needs_its_tokens_and_names_monitor_and_data(tmp_path: Path) -> None:
    """An index that prompts are too short for is known where they are tokens."""
    recipe = tmp_path / "recipe.yaml"
    set_by = "calibrate: {data: warm.train, false_alarms: 500}"
    recipe.write_text(WITH_TALKS + MONITOR.replace("above: 3.0", set_by).replace("assistant[-1]", "user[-1][90]"))
    with pytest.raises(PositionError) as caught:
        run_recipe(recipe, out=tmp_path / "runs")
    assert str(caught.value).startswith(
        "monitors.said: its threshold can't be set on warm.train. Monitor 'said': Positions 'user[-1][90]': row 1 has "
    )
