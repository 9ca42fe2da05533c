"""What was not measured, with its reason; and what a run directory has lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from steerkit.artifacts.reading import load_run
from steerkit.cli.report import report_command
from steerkit.report.gaps import lost_parts, missing
from steerkit.report.separation import make_separations
from steerkit.report.tables import make_blocks


def said(path: Path) -> tuple[str, ...]:
    run = load_run(path)
    return missing(run, make_blocks(run.results), make_separations(run.results))


def test_a_site_that_was_not_fully_measured_says_why(build: Any, results: dict[str, Any]) -> None:
    first, second, third, fourth, fifth = results["separation"][:5]
    for entry in (first, second):
        entry.update(auroc=None, d_prime=None, reason="the estimate is zero there.")
    third.update(auroc=None, d_prime=None, reason="no reason with a stop")
    fourth.update(d_prime=None, n_positive=1)
    fifth.update(d_prime=None)
    lead = "Separation, warmth: warm.test against cold.test: "
    assert [note for note in said(build(results)) if note.startswith("Separation")] == [
        f"{lead}blocks.0.resid_pre, blocks.1.resid_pre were not fully measured: the estimate is zero there.",
        f"{lead}blocks.2.resid_pre was not fully measured: no reason with a stop.",
        f"{lead}blocks.3.resid_pre was not fully measured: d\u2032 needs two prompts of each class.",
        f"{lead}blocks.4.resid_pre was not fully measured: d\u2032 needs projections that differ within a class.",
    ]


def test_an_interval_of_one_point_says_what_it_is(build: Any, results: dict[str, Any], make: Any) -> None:
    whole = {"aggregate": "whole", "unit": "", "evaluator": "monitor_auroc", "data": "probe.test"}
    sure = {"ci_low": 1.0, "ci_high": 1.0}
    results["records"] += [
        make.record("baseline", 0.75, half=0.2, **whole),
        {**make.record("warmer", 1.0, half=0.2, **whole), **sure},
    ]
    path = build(results)
    (note,) = [note for note in said(path) if "single point" in note]
    assert note.startswith(
        "monitor_auroc on probe.test: the interval of warmer is a single point, because nearly every"
    )
    assert "all pairs in order" in note
    from steerkit.report import write_report

    page = write_report(path).read_text(encoding="utf-8")
    assert page.count('<small class="note">one value in nearly every draw</small>') == 1
    assert "1.00, one value in nearly every draw of the examples)" in page
    # A mean whose interval is one point comes from no draws.
    results["records"][-1]["aggregate"] = "mean"
    assert not any("single point" in note for note in said(build(results)))


@pytest.mark.parametrize(
    ("name", "lack"),
    [
        ("samples.jsonl", "completions and the scores of single examples can't be shown."),
        (
            "directions.safetensors",
            "the report describes directions from results.json, and none of them can be used again.",
        ),
        ("provenance.json", "what the run was made with can't be shown."),
        ("timings.json", "how long the run took can't be shown."),
        ("recipe.yaml", "the recipe can't be shown."),
    ],
)
def test_the_command_tells_of_what_is_lost(build: Any, name: str, lack: str) -> None:
    path = build()
    app = typer.Typer()
    app.command()(report_command)
    whole = CliRunner().invoke(app, [str(path)])
    assert (whole.exit_code, whole.stderr) == (0, "")
    (path / name).unlink()
    lost = CliRunner().invoke(app, [str(path)])
    assert lost.exit_code == 0
    assert lost.stderr == f"{name} is missing from the run directory: {lack}\n"
    assert (lost.stderr.strip() in said(path)) == (name == "samples.jsonl")


def test_a_run_without_directions_has_lost_none(build: Any, results: dict[str, Any]) -> None:
    results["directions"] = []
    path = build(results)
    (path / "directions.safetensors").unlink()
    assert lost_parts(load_run(path)) == []


def test_what_the_runner_has_said_of_a_site_is_not_said_again(build: Any, results: dict[str, Any]) -> None:
    results["separation"][0].update(auroc=None, d_prime=None, reason="the two classes have the same means there.")
    results["notes"] = ["No separation of warmth at blocks.0.resid_pre: the two classes have the same means there."]
    assert [note for note in said(build(results)) if "same means" in note] == results["notes"]
