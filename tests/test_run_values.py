"""The main path with monitors, several values per evaluator, and conditions that do nothing or nowhere act."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steerkit.api.evaluator import Score
from steerkit.catalog import Catalog
from steerkit.engine.measuring.jobs import ConditionScores
from steerkit.plan import DataRef, plan_recipe
from steerkit.report import load_run, write_report
from steerkit.run import run_recipe
from steerkit.stages.values import records_of
from steerkit.types import Example
from tests.small_run import RECIPE, results_of

MONITORED = (
    RECIPE.replace("    sweep: {coefficient: [-2, 2]}\n", "    sweep: {coefficient: [0, 2]}\n")
    .replace(
        "  without:\n",
        "  shut:\n"
        "    interventions:\n"
        "      - add: {direction: warmth, gate: {direction: warmth, above: 1.0e6}}\n"
        "      - add: {direction: warmth, positions: from_token(zebra)}\n"
        "    control: false\n"
        "  behind:\n"
        "    interventions:\n"
        "      - add: {direction: warmth, gate: {direction: warmth, above: -1.0e6, at: prompt}}\n"
        "    control: false\n"
        "  late:\n"
        "    interventions: [{add: {direction: warmth, coefficient: 2.0, positions: generated}}]\n"
        "  without:\n",
    )
    .replace(
        "evaluate:\n",
        "monitors:\n  heat: {direction: warmth, above: 0.0, positions: all}\n"
        "evaluate:\n  - monitor_auroc: {data: [warm.test, cold.test], monitor: heat, positive: 1, max_new_tokens: 3}\n",
    )
    .replace("    - ablate: {direction: warmth}\n", "    - ablate: {direction: warmth}\n")
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("values")
    (folder / "small.yaml").write_text(MONITORED)
    return run_recipe(folder / "small.yaml", out=folder / "runs")


def record(results: dict[str, Any], condition: str, evaluator: str, data: str = "cold.test") -> dict[str, Any]:
    (found,) = [
        item
        for item in results["records"]
        if (item["condition"], item["evaluator"], item["data"]) == (condition, evaluator, data)
    ]
    return dict(found)


def crossing(crossed: tuple[Score, ...], positive: int | None = 1) -> dict[tuple[str, str], tuple[Score, ...]]:
    """What crossed of all, of the odd examples, which are the positive ones where there are any, and of the others."""
    odd = [float(positive is not None and place % 2 == positive) for place in range(len(crossed))]
    sides = {"caught": odd, "false_alarms": [1.0 - one for one in odd]}
    parts = {
        (name, "cold.test"): tuple(Score(one.value, weight) for one, weight in zip(crossed, weights, strict=True))
        for name, weights in sides.items()
    }
    return {("crossed", "cold.test"): crossed, **parts}


def test_values_of_examples_and_of_the_whole_are_records(run: Path) -> None:
    results = results_of(run)
    crossed, peak = (record(results, "warmer", name) for name in ("crossed", "peak_reading"))
    assert crossed["aggregate"] == "proportion" and 0 <= crossed["ci_low"] <= crossed["value"] <= crossed["ci_high"]
    assert peak["unit"] == "projection" and peak["difference"] is not None and peak["not_computed"] == 0
    whole = record(results, "warmer", "monitor_auroc")
    assert whole["aggregate"] == "whole" and whole["value"] is None, "plain texts have no label"
    said = "monitor_auroc on cold.test under warmer: No value: no example has a label, so none has 1 there."
    assert said in results["notes"]
    names = [entry["name"] for entry in results["evaluators"]]
    assert names[:3] == ["monitor_auroc", "crossed", "peak_reading"]
    assert results["monitors"][0]["sites"] == ["blocks.1.resid_pre"]


def test_readings_travel_with_samples(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    read = [line for line in lines if "readings" in line]
    assert {line["condition"] for line in read} == {
        "baseline",
        "warmer",
        "shut",
        "behind",
        "late",
        "without",
        "dose[coefficient=0]",
        "dose[coefficient=2]",
    }
    for line in read:
        heat = line["readings"]["heat"]
        assert heat["crossed"] == (max(heat["values"]) > 0) and heat["peak"] == max(heat["values"])
        assert heat["prompt_tokens"] < len(heat["values"]) and all(map(math.isfinite, heat["values"]))


def test_a_coefficient_of_zero_is_the_baseline_itself(run: Path) -> None:
    results = results_of(run)
    for item in results["records"]:
        if item["condition"] == "dose[coefficient=0]":
            plain = record(results, "baseline", item["evaluator"], item["data"])
            assert item["value"] == plain["value"]
            assert item["difference"] in (0.0, None), item
    assert any(
        note.startswith("Condition dose[coefficient=0]: its interventions do nothing") for note in results["notes"]
    )


def test_what_never_acts_is_told(run: Path) -> None:
    notes = results_of(run)["notes"]
    (gate,) = [note for note in notes if "its gate was never open" in note]
    assert gate.startswith("Condition shut: ") and "next-token logits on cold.test" in gate
    (text,) = [note for note in notes if "its text never came" in note]
    assert text.startswith("Condition shut: 'from_token(zebra)' edited no token of ")
    (late,) = [note for note in notes if "there are none at its positions" in note]
    assert late.startswith("Condition late: 'generated' edited no token of next-token logits on")
    assert "completions" not in late
    assert not any(note.startswith("Condition warmer") for note in notes)


def test_what_never_acted_differs_by_nothing_not_by_what_other_batches_round(run: Path) -> None:
    results = results_of(run)
    looked = {"shut": {"refusal_score", "kl_divergence"}, "late": {"refusal_score", "kl_divergence"}}
    seen = set()
    for item in results["records"]:
        name, _, control = item["condition"].partition("/")
        if item["evaluator"] in looked.get(name, ()):
            plain = record(results, "baseline", item["evaluator"], item["data"])
            assert (item["value"], item["difference"]) == (plain["value"], 0.0), item["condition"]
            seen.add((name, bool(control)))
    assert seen == {("shut", False), ("late", False), ("late", True)}
    moved = record(results, "warmer", "kl_divergence")
    assert moved["value"] > 1e-4


def test_a_gate_with_no_token_to_decide_about_is_not_called_shut(run: Path) -> None:
    """It is open in every prompt, and edits generated tokens, of which some evaluators have none."""
    (note,) = [note for note in results_of(run)["notes"] if note.startswith("Condition behind")]
    what, _, why = note.partition(": it ")
    assert why == "edits tokens behind the prompt only, and there are none there, so its gate decided nothing."
    assert "next-token logits on" in what and "logits along texts on text" in what
    assert "completions" not in what and "along texts on cold.test" not in what
    (shut,) = [note for note in results_of(run)["notes"] if "its gate was never open" in note]
    assert shut.startswith("Condition shut: ") and "next-token logits on cold.test" in shut


def test_the_report_reads_all_that_is_written(run: Path) -> None:
    page = write_report(run).read_text()
    assert "peak_reading" in page and "its gate was never open" in page
    assert load_run(run).results.records


def test_labels_give_an_auroc_with_an_interval_and_a_paired_difference(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(MONITORED)
    plan = plan_recipe(tmp_path / "small.yaml", (), Catalog.discover())
    rows = tuple(Example.of(f"text {place}") for place in range(12))
    labelled = tuple(replace(row, label=place % 2) for place, row in enumerate(rows))
    plan = replace(plan, data={**plan.data, "cold": {"test": labelled}})
    (planned,) = [item for item in plan.evaluations if item.name == "monitor_auroc"]

    def given(shift: float) -> ConditionScores:
        peaks = tuple(Score(place % 5 + shift * (place % 2)) for place in range(12))
        return ConditionScores({("peak_reading", "cold.test"): peaks, **crossing((Score(1.0),) * 12)}, {})

    records, notes = records_of(plan, planned, DataRef("cold", "test"), "c", given(5.0), given(0.0))
    (whole,) = [item for item in records if item.evaluator == "monitor_auroc"]
    (plain,) = [
        item
        for item in records_of(plan, planned, DataRef("cold", "test"), "baseline", given(0.0), None)[0]
        if item.evaluator == "monitor_auroc"
    ]
    assert whole.value == 1.0 and whole.ci_low == whole.ci_high == 1.0 and not notes
    assert whole.difference == pytest.approx(1.0 - plain.value)
    assert whole.difference_ci_low < whole.difference < whole.difference_ci_high
    assert plain.ci_low < plain.value < plain.ci_high and plain.difference is None
    broken = given(0.0)
    nan = (Score(math.nan), *broken.scores[("peak_reading", "cold.test")][1:])
    broken = replace(broken, scores={**broken.scores, ("peak_reading", "cold.test"): nan})
    records, notes = records_of(plan, planned, DataRef("cold", "test"), "c", broken, given(0.0))
    lost = {item.evaluator: (item.value, item.difference, item.not_computed) for item in records}
    assert lost["monitor_auroc"] == lost["peak_reading"] == (None, None, 1) and lost["crossed"][2] == 0
    assert len(notes) == 2


def test_why_there_is_no_difference_is_told(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(MONITORED)
    plan = plan_recipe(tmp_path / "small.yaml", (), Catalog.discover())
    labelled = tuple(replace(Example.of(f"text {place}"), label=place % 2) for place in range(12))
    plan = replace(plan, data={**plan.data, "cold": {"test": labelled}})
    (planned,) = [item for item in plan.evaluations if item.name == "monitor_auroc"]

    def given(crossed: float = 1.0, weight: float = 1.0, lost: int = 0) -> ConditionScores:
        peaks = tuple(Score(math.nan if place < lost else float(place % 5)) for place in range(12))
        scores = {("peak_reading", "cold.test"): peaks, **crossing((Score(crossed, weight),) * 12)}
        return ConditionScores(scores, {})

    def notes(found: ConditionScores, plain: ConditionScores) -> list[str]:
        return records_of(plan, planned, DataRef("cold", "test"), "c", found, plain)[1]

    assert notes(given(), given()) == []
    (weights,) = notes(given(weight=2.0), given())
    assert weights.startswith("crossed on cold.test under c, difference to the baseline: Other examples count than")
    of_baseline = notes(given(), given(lost=1))
    assert {note.partition(": ")[0] for note in of_baseline} == {
        f"{name} on cold.test under c, difference to the baseline" for name in ("peak_reading", "monitor_auroc")
    }
    assert all("1 of 12" in note for note in of_baseline)
    # An example without a score under both conditions is one example.
    assert len(notes(given(lost=1), given(lost=1))) == 2
    # The same note of the value and of its difference is told once.
    assert len(notes(given(lost=1), given())) == 2


def test_a_label_that_no_example_has_is_named_by_the_runs_note(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(MONITORED)
    plan = plan_recipe(tmp_path / "small.yaml", (), Catalog.discover())
    labelled = tuple(replace(Example.of(f"text {place}"), label="safe") for place in range(4))
    plan = replace(plan, data={**plan.data, "cold": {"test": labelled}})
    (planned,) = [item for item in plan.evaluations if item.name == "monitor_auroc"]
    scores = (Score(1.0),) * 4
    found = ConditionScores({("peak_reading", "cold.test"): scores, **crossing(scores, None)}, {})
    (note,) = records_of(plan, planned, DataRef("cold", "test"), "c", found, found)[1]
    assert note == 'monitor_auroc on cold.test under c: No value: no example has label 1. Available: "safe".'


def test_an_auroc_of_rounding_noise_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(MONITORED)
    plan = plan_recipe(tmp_path / "small.yaml", (), Catalog.discover())
    labelled = tuple(replace(Example.of(f"text {place}"), label=place % 2) for place in range(12))
    plan = replace(plan, data={**plan.data, "cold": {"test": labelled}})
    (planned,) = [item for item in plan.evaluations if item.name == "monitor_auroc"]

    def told(step: float) -> tuple[float | None, list[str]]:
        peaks = tuple(Score(3.0 + step * (place % 2)) for place in range(12))
        scores = {("peak_reading", "cold.test"): peaks, **crossing((Score(1.0),) * 12)}
        records, notes = records_of(plan, planned, DataRef("cold", "test"), "c", ConditionScores(scores, {}), None)
        return next(item.value for item in records if item.evaluator == "monitor_auroc"), notes

    assert told(1e-4) == (1.0, [])
    value, (note,) = told(2**-22)
    assert value == 1.0, "the value stays"
    assert note.startswith("monitor_auroc on cold.test under c: all peaks lie within 2e-07 of each other near 3")
    assert told(0.0) == (0.5, []), "peaks that are one are no noise"


def test_a_separation_of_rounding_noise_is_called_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import steerkit.engine.measuring.separation as measuring

    monkeypatch.setattr(measuring, "only_rounding", lambda values, size: True)
    (tmp_path / "small.yaml").write_text(RECIPE)
    results = results_of(run_recipe(tmp_path / "small.yaml", out=tmp_path / "runs"))
    rows = [row for row in results["separation"] if row["auroc"] is not None]
    assert rows and all(row["only_rounding"] is True for row in rows)
    (note,) = [note for note in results["notes"] if "tell noise apart" in note]
    assert note.startswith(f"Separation of warmth at {', '.join(row['site'] for row in rows)}: ")


def test_a_data_set_with_labels_has_an_auroc(tmp_path: Path) -> None:
    rows = [{"text": f"{kind} {number}", "kind": kind} for number in range(6) for kind in ("hot", "mild")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = MONITORED.replace("data:\n", "data:\n  rows: {file: rows.jsonl, label: kind, split: {test: 12}}\n", 1)
    recipe = recipe.replace(
        "data: [warm.test, cold.test], monitor: heat, positive: 1", "data: rows.test, monitor: heat, positive: hot"
    )
    (tmp_path / "labels.yaml").write_text(recipe)
    results = results_of(run_recipe(tmp_path / "labels.yaml", out=tmp_path / "runs"))
    whole = record(results, "warmer", "monitor_auroc", "rows.test")
    assert 0 <= whole["ci_low"] <= whole["value"] <= whole["ci_high"] <= 1 and whole["n"] == 12
    assert whole["difference"] is not None


def test_a_pattern_of_a_monitor_means_the_sites_that_its_direction_has(tmp_path: Path) -> None:
    """At block 0 the last token is the same in every prompt, so that an estimate has nothing there."""
    recipe = MONITORED.replace("site: blocks.1.resid_pre", 'site: "blocks.*.resid_pre"', 1)
    recipe = recipe.replace("  heat: {direction: warmth, ", '  heat: {direction: warmth, sites: "blocks.*.resid_pre", ')
    recipe = recipe.replace("ablate: {direction: warmth}", "ablate: {direction: warmth, at: blocks.1.resid_pre}")
    recipe = recipe.replace("gate: {direction: warmth, ", "gate: {direction: warmth, site: blocks.1.resid_pre, ")
    (tmp_path / "pattern.yaml").write_text(recipe)
    results = results_of(run_recipe(tmp_path / "pattern.yaml", out=tmp_path / "runs"))
    (left_out,) = [note for note in results["notes"] if note.startswith("Direction warmth has no vectors at")]
    assert "blocks.0.resid_pre" in left_out and "blocks.0.resid_pre" not in results["monitors"][0]["sites"]
    assert record(results, "warmer", "peak_reading")["not_computed"] == 0
