"""Diagnostics of directions: what is measured is shown, what isn't says so, long series are thinned."""

from __future__ import annotations

from typing import Any

from steerkit.artifacts.reading import Results
from steerkit.report import write_report
from steerkit.report.diagnostics import MOST_ROWS, make_diagnostics


def test_numbers_and_series_become_rows(results: dict[str, Any]) -> None:
    accuracy = {"values": [0.75, None], "at": ["blocks.1.resid_pre", "blocks.2.resid_pre"], "over": "site"}
    loss = {"values": [1 / (step + 1) for step in range(200)], "at": list(range(200)), "over": "step"}
    results["directions"][0]["diagnostics"] = {
        "accuracy": accuracy,
        "loss": loss,
        "explained variance": 0.5,
        "gap": None,
    }
    further = {**results["directions"][0], "name": f"{results['directions'][0]['name']}.second"}
    results["directions"].append(further)
    found = {one.name: one for one in make_diagnostics(Results.model_validate(results))}
    assert list(found) == ["accuracy", "loss", "explained variance", "gap"]
    assert found["accuracy"].rows == (("blocks.1.resid_pre", 0.75), ("blocks.2.resid_pre", None))
    assert found["explained variance"].rows == (("", 0.5),)
    assert found["gap"].rows == (("", None),)
    rows = found["loss"].rows
    assert (len(rows), rows[0], rows[-1], found["loss"].total) == (MOST_ROWS, ("0", 1.0), ("199", 1 / 200), 200)


def test_the_report_shows_them_and_nothing_where_there_are_none(results: dict[str, Any], build: Any) -> None:
    plain = write_report(build(results)).read_text(encoding="utf-8")
    assert "How the directions were estimated" not in plain
    results["directions"][0]["diagnostics"] = {"accuracy": {"values": [0.75, None], "at": ["x", "y"], "over": "site"}}
    page = write_report(build(results)).read_text(encoding="utf-8")
    assert "How the directions were estimated" in page
    assert '<data value="0.75">' in page and "site y" in page
