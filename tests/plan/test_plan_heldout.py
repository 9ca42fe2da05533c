"""What is found in, or compared with, prompts that numbers in the report come from is said before a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from steerkit.plan import plan_recipe
from steerkit.report import write_report
from steerkit.run import run_recipe
from tests.plan.conftest import Planner
from tests.test_run_cosmic import CATALOG, RECIPE

NOTE = ", which numbers in the report come from: not held out."
TOKENS = """\
model: {source: "tiny-random:llama", dtype: float32}
data:
  warm: {inline: [w1, w2, w3, w4, w5, w6], split: {train: 2, validation: 2, test: 2}}
  cold: {inline: [c1, c2, c3, c4, c5, c6], split: {train: 2, validation: 2, test: 2}}
  again: {inline: [c1, c2, c3, c4, c5, c6]}
directions:
  warmth: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}
filter: {warm: {refusal_score: {tokens: FILTER, at_least: 0}}}
conditions: {added: [{add: {direction: warmth}}]}
evaluate: [{refusal_score: {data: MEASURED, tokens: TOKENS}}]
"""


def told(notes: Sequence[str]) -> list[str]:
    return [note.removesuffix(NOTE) for note in notes if note.endswith(NOTE)]


@pytest.mark.parametrize(
    ("tokens", "measured", "expected"),
    [
        ("{found_in: warm.train, against: cold.train}", "warm.test", []),
        ("{found_in: warm.test, against: cold.train}", "warm.test", ["warm.test"]),
        ("{found_in: warm.test, against: cold.test}", "warm.test", ["warm.test", "cold.test"]),
        ("{found_in: warm.test}", "cold.test", ["warm.test"]),
        ("{found_in: warm.validation, against: cold.validation}", "cold.validation", ["cold.validation"]),
        ("{found_in: warm.train, against: again}", "cold.test", ["again"]),
        ("{found_in: warm.train, against: again}", "warm.test", []),
        ("[x]", "warm.test", []),
    ],
)
def test_refusal_tokens_of_an_evaluator(plan: Planner, tokens: str, measured: str, expected: list[str]) -> None:
    text = TOKENS.replace("TOKENS", tokens).replace("MEASURED", measured).replace("FILTER", "[x]")
    found = plan(text)
    assert told(found.notes) == [f"refusal_score goes by refusal tokens that are found in {ref}" for ref in expected]
    assert told(found.not_held_out) == told(found.notes)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("report: {separation: false}", []),
        ("report: {separation: true}", ["warm.test", "cold.test"]),
        (
            "report: {separation: false}\nsuffixes: {s: {direction: warmth, prompts: cold.test, suffixes: [' z']}}",
            ["cold.test"],
        ),
    ],
)
def test_test_prompts_that_no_number_comes_from_are_no_loss(plan: Planner, more: str, expected: list[str]) -> None:
    """By evaluators, as classes that are told apart, or in a study of suffixes: else nobody reports on them."""
    text = TOKENS.replace("TOKENS", "{found_in: warm.test, against: cold.test}").replace("FILTER", "[x]")
    found = plan(
        f"{text.replace('MEASURED', 'other')}{more}\n".replace("  again:", "  other: {inline: [o1]}\n  again:")
    )
    assert told(found.notes) == [f"refusal_score goes by refusal tokens that are found in {ref}" for ref in expected]


def test_a_filter_looks_at_nothing_that_anybody_measures(plan: Planner) -> None:
    text = TOKENS.replace("TOKENS", "[x]").replace("FILTER", "{found_in: warm.validation, against: again}")
    assert told(plan(text.replace("MEASURED", "warm.test")).notes) == []
    assert told(plan(text.replace("MEASURED", "[warm.test, cold.test]")).notes) == [
        "The filter of warm goes by refusal tokens that are found in again"
    ]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", "", []),
        ("like: cold.train", "like: cold.test", ["activation_cosine compares with activations of cold.test"]),
        (
            "like: cold.train, classes: [warm.train, cold.train]",
            "like: cold.train, classes: [warm.test, cold.test]",
            [f"activation_cosine compares with activations of {ref}" for ref in ("warm.test", "cold.test")],
        ),
        (
            "classes: [warm.train, cold.train]}}\n    subject",
            "classes: [warm.test, cold.train]}}\n    subject",
            ["Search 'warmth' compares with activations of warm.test"],
        ),
    ],
)
def test_what_activations_are_compared_with(tmp_path: Path, before: str, after: str, expected: list[str]) -> None:
    assert before in RECIPE
    (tmp_path / "small.yaml").write_text(RECIPE.replace(before, after) if before else RECIPE, "utf-8")
    assert told(plan_recipe(tmp_path / "small.yaml", (), CATALOG).notes) == expected


def test_the_report_says_so_on_its_first_page(tmp_path: Path) -> None:
    recipe = """\
model: {source: "tiny-random:llama", dtype: float32}
data:
  warm: {inline: [w1, w2, w3, w4], split: {train: 2, test: 2}}
  cold: {inline: [c1, c2, c3, c4], split: {train: 2, test: 2}}
directions:
  warmth: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}
conditions: {added: [{add: {direction: warmth}}]}
evaluate:
  - kl_divergence: {data: [warm.train, cold.test]}
  - activation_cosine: {data: warm.test, like: cold.test, classes: [warm.train, cold.train]}
control: false
report: {separation: false}
"""
    (tmp_path / "small.yaml").write_text(recipe, "utf-8")
    run = run_recipe(tmp_path / "small.yaml", out=tmp_path / "runs")
    said = json.loads((run / "results.json").read_text("utf-8"))["not_held_out"]
    assert said == [
        "warm.train is measured on, and directions are estimated from it: not held out.",
        f"activation_cosine compares with activations of cold.test{NOTE}",
    ]
    page = write_report(run).read_text("utf-8").replace("<wbr>", "")
    assert all(sentence in page[: page.index('id="conditions"')] for sentence in said)
