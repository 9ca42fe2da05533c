"""What a run says of a judge that gives no verdict: never 0, and not that a score was odd."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerkit.engine.measuring import asking
from steerkit.report import write_report
from steerkit.run import run_recipe
from steerkit.stages import carry
from tests.small_run import results_of

RECIPE = """\
model: {source: "tiny-random:llama", dtype: float32}
data: {a: {inline: [one, two, three]}}
conditions: {asked: {system_prompt: Be warm.}}
evaluate:
  - judge: {data: a, max_new_tokens: 2, endpoint: "http://127.0.0.1:9/v1", model: m, max_calls: 2}
"""


def test_without_verdicts_nothing_is_measured_and_the_run_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "TRIES", 1)
    monkeypatch.setattr(carry, "cache_folder", lambda: tmp_path / "cache")
    (tmp_path / "judged.yaml").write_text(RECIPE, "utf-8")
    run = run_recipe(tmp_path / "judged.yaml", out=tmp_path / "runs")
    results = results_of(run)
    assert [one["value"] for one in results["records"]] == [None] * 4
    for condition in ("baseline", "asked"):
        said = f"judged on a under {condition}: 3 of 3 were not judged, so there is no value."
        assert said in results["notes"]
        (why,) = [one for one in results["notes"] if one.startswith(f"Condition {condition}: judge on a:")]
        assert "2 questions stayed without an answer" in why and "1 were beyond the budget" in why
    # Said once: what is so of a value is so of its difference.
    assert not any("NaN or infinite" in one or "difference to the baseline" in one for one in results["notes"])
    page = write_report(run).read_text("utf-8").partition('<section id="missing">')[0]
    assert "not judged" in page and "not measured" not in page.partition('<section id="short">')[2]
