"""The table of cross-entropies: a column for each kind of text, and changes from the baseline."""

from __future__ import annotations

from typing import Any

from steerkit.artifacts.reading import load_run
from steerkit.report import write_report
from steerkit.report.crossentropy import make_cross_entropies
from tests.report.conftest import Build, JsonObject, condition, record

NATS: JsonObject = {"aggregate": "mean", "unit": "nats", "derived": ["perplexity"]}


def measured(results: dict[str, Any]) -> None:
    """Three kinds of text under a baseline and a condition, one of them not measured under the condition."""
    results["conditions"] = [condition("baseline", "baseline"), condition("warmer")]
    results["evaluators"] = [
        {"name": "cross_entropy", **NATS, "options": {"of": "text", "max_tokens": 256}},
        {"name": "own", **NATS, "options": {"of": "baseline_completions", "max_new_tokens": 64}},
        {"name": "choice_logit_difference", "aggregate": "mean", "unit": "nats"},
    ]
    said = {
        "data": "said",
        "of": ["warm.train", "warm.test"],
        "condition": "warmer",
        "max_new_tokens": 8,
        "examples": 4,
    }
    results["completions"] = [said]
    change = {"difference": 0.5, "difference_ci_low": 0.25, "difference_ci_high": 0.75}
    results["records"] = [
        record("baseline", 2.0, evaluator="cross_entropy", data="pile", n=3),
        record("warmer", 2.5, evaluator="cross_entropy", data="pile", n=3, **change),
        record("baseline", 1.0, evaluator="cross_entropy", data="said.test", n=2),
        record("warmer", 0.25, evaluator="cross_entropy", data="said.test", n=2, difference=-0.75),
        record("baseline", 0.5, evaluator="own", data="warm.test", n=2),
        record("warmer", None, evaluator="own", data="warm.test", n=0),
        record("baseline", 7.0, evaluator="perplexity", data="pile"),
        record("baseline", 7.0),
    ]


def test_each_kind_of_text_has_a_column_and_each_condition_its_change(results: dict[str, Any], build: Build) -> None:
    measured(results)
    run = load_run(build(results))
    table = make_cross_entropies(run)
    assert table is not None
    assert [(kind.name, kind.what, kind.n) for kind in table.kinds] == [
        ("cross_entropy on pile", "the texts of pile, up to 256 tokens of each", 3),
        (
            "cross_entropy on said.test",
            "what the model says to warm.test under warmer, without the prompts",
            2,
        ),
        ("own on warm.test", "the model's own baseline completions of warm.test, up to 64 tokens", 2),
    ]
    values = {entry.name: [cell.value for cell in cells] for entry, cells in table.rows}
    assert values == {"baseline": [2.0, 1.0, 0.5], "warmer": [2.5, 0.25, None]}
    changes = {entry.name: [cell.change for cell in cells] for entry, cells in table.rows}
    assert changes["baseline"] == ["", "", ""]
    assert changes["warmer"][0].startswith("+0.50") and "0.25 to 0.75" in changes["warmer"][0]
    assert changes["warmer"][1:] == ["−0.75", ""]
    page = write_report(run.path).read_text("utf-8")
    assert "Cross-entropy by kind of text" in page and "(three texts)" in page
    section = page[page.index('<section id="cross-entropy">') :]
    assert "not measured" in section[: section.index("</section>")]


def test_one_kind_of_text_has_its_table_already(results: dict[str, Any], build: Build) -> None:
    measured(results)
    results["records"] = [one for one in results["records"] if one["data"] == "pile"]
    run = load_run(build(results))
    assert make_cross_entropies(run) is None
    assert "Cross-entropy by kind of text" not in write_report(run.path).read_text("utf-8")
