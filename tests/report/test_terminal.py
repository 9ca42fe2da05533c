"""The summary in a terminal of 80 columns and in a pipe."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from steerkit.report import load_run, summary
from steerkit.report.terminal import print_summary


def shown(path: Path, **options: Any) -> str:
    file = io.StringIO()
    print_summary(load_run(path), Console(file=file, width=options.pop("width", 80), **options))
    return file.getvalue()


def test_value_interval_and_control_of_each_condition(plain_run: Path) -> None:
    text = shown(plain_run)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    results = json.loads((plain_run / "results.json").read_text(encoding="utf-8"))
    controls = [r["value"] for r in results["records"] if r["condition"].startswith("warmer/random-")]
    control = f"{sum(controls) / 5:.2f} {min(controls):.2f} to {max(controls):.2f}"
    assert f"warmer 1.13 0.79 to 1.47 {control}" in lines
    assert "baseline -1.20 -1.54 to -0.86" in lines
    assert "choice_logit_difference on probe.test, nats, n = 16" in lines
    assert "warmth at blocks.15.resid_pre: AUROC 0.98 on held-out prompts" in lines
    assert lines[-1] == f"Report: {plain_run / 'report.html'}"


@pytest.mark.parametrize("name", ["plain_run", "odd_run"])
@pytest.mark.parametrize("width", [80, 120])
def test_fits_the_width_and_has_no_colour_in_a_pipe(name: str, width: int, request: pytest.FixtureRequest) -> None:
    text = shown(request.getfixturevalue(name), width=width)
    assert "\x1b" not in text
    path = text.splitlines()[-1]
    assert all(cell_len(line) <= width for line in text.splitlines() if line != path)


def test_nothing_is_cut_off(odd_run: Path) -> None:
    text = shown(odd_run)
    assert "…" not in text
    for word in ("<script>alert(1)", "温暖", "not measured", "4.20e11", "refusal_rate on requests.test"):
        assert word in text, word


def test_names_are_not_read_as_markup(build: Any, results: dict[str, Any], make: Any) -> None:
    results["title"] = "[bold]title[/bold] :smile: [/nonsense]"
    results["conditions"][1]["name"] = "[red]x[/red]"
    results["conditions"] = [c for c in results["conditions"] if c["of"] != "warmer"]
    results["records"] = [make.record("baseline", 1.0), make.record("[red]x[/red]", 2.0)]
    text = shown(build(results))
    assert "[bold]title[/bold] :smile: [/nonsense]" in text and "[red]x[/red]" in text


def test_what_was_not_measured_is_said(build: Any, results: dict[str, Any], make: Any) -> None:
    results["records"] = [make.record("baseline", 1.0), make.record("warmer", None)]
    results["notes"] = ["A note of the runner."]
    text = shown(build(results))
    assert "Not measured:" in text and "- A note of the runner." in text
    row = next(line for line in text.splitlines() if line.split()[:1] == ["warmer"])
    assert "not measured" in row and "0" not in row


def test_nothing_evaluated(build: Any, results: dict[str, Any]) -> None:
    results.update(records=[], evaluators=[], separation=[])
    assert "Nothing was evaluated in this run." in shown(build(results))


def test_summary_prints_to_standard_output(plain_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary(plain_run)
    assert "Report: " in capsys.readouterr().out


def test_a_name_that_is_too_long_for_a_table_stands_above_its_numbers(
    build: Any, results: dict[str, Any], make: Any
) -> None:
    long = "a_condition_whose_name_takes_nearly_a_whole_line_of_a_terminal_by_itself"
    for entry in (*results["conditions"], *results["records"]):
        for key in ("name", "of", "condition"):
            if entry.get(key):
                entry[key] = entry[key].replace("warmer", long)
    lines = shown(build(results)).splitlines()
    assert long in lines
    first = lines.index(long)
    assert lines[first + 1 : first + 3] == ["  value: 1.13", "  95 % interval: 0.79 to 1.47"]
    assert lines[first + 3].startswith("  random mean: ")
