"""What conditions reach of what evaluators read: the notes of a plan and the numbers of a run say the same.

Conversations that end with an answer are read as that answer behind what is before it, as data with completions are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from steerkit.catalog import Catalog
from steerkit.plan import plan_recipe
from steerkit.report import write_report
from steerkit.run import run_recipe
from tests.small_run import results_of

RECIPE = """
name: reached
model: {source: "tiny-random:llama", dtype: float32}
data:
  warm: {inline: [sun one, sun two, sun three, sun four], split: {train: 2, test: 2}}
  cold: {inline: [ice one, ice two, ice three, ice four], split: {train: 2, test: 2}}
  text: {inline: ["A plain sentence of some words.", "Another sentence, of other words."]}
  given: {inline: [{q: one, a: " answer here"}, {q: two, a: "and another"}], field: q, completion: a}
  closed:
    inline:
      - {turns: [{role: user, content: one}, {role: assistant, content: " answer here"}]}
      - {turns: [{role: user, content: two}, {role: assistant, content: "and another"}]}
    messages: turns
  open:
    inline:
      - {turns: [{role: user, content: a}, {role: assistant, content: b}, {role: user, content: c}]}
    messages: turns
  own: {completions: {of: cold.test, max_new_tokens: 6}}
directions:
  d: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}
conditions:
  all:       [{add: {direction: d, coefficient: 9}}]
  last:      [{add: {direction: d, coefficient: 9, positions: last}}]
  generated: [{add: {direction: d, coefficient: 9, positions: "generated[:8]", schedule: "linear(1, 0, 4)"}}]
  answer:    [{add: {direction: d, coefficient: 9, positions: completion}}]
  late:      [{add: {direction: d, coefficient: 9, positions: "generated[4:]"}}]
  prompted:  {system_prompt: Answer in verse.}
  both:      {system_prompt: Answer in verse., interventions: [{add: {direction: d, positions: generated}}]}
evaluate:
  - refusal_score: {data: warm.test}
  - cross_entropy: {data: [text, given, closed, open, own.test]}
  - cross_entropy: {data: cold.test, of: baseline_completions, max_new_tokens: 5, name: baselines}
  - kl_divergence: {data: cold.test, epsilon: 0}
  - kl_divergence: {data: cold.test, along: completions, max_new_tokens: 6, epsilon: 0, name: along}
control: {random_directions: 0}
report: {separation: false}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reached") / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def run(recipe: Path) -> Path:
    return run_recipe(recipe, out=recipe.parent / "runs")


@pytest.fixture(scope="module")
def records(run: Path) -> dict[tuple[str, str, str], Mapping[str, Any]]:
    found = results_of(run)["records"]
    return {(one["condition"], one["evaluator"], one["data"]): one for one in found}


def test_a_note_says_that_nothing_can_differ_where_nothing_does_and_nowhere_else(
    recipe: Path, records: Mapping[tuple[str, str, str], Mapping[str, Any]]
) -> None:
    moved: dict[str, set[tuple[str, str]]] = {}
    for (condition, evaluator, data), record in records.items():
        if condition != "baseline" and "perplexity" not in evaluator:
            same = record["value"] == records["baseline", evaluator, data]["value"]
            moved.setdefault(condition, set()).update(() if same else {(evaluator, data)})
    every = set.union(*moved.values())
    prompts = {("refusal_score", "warm.test"), ("kl_divergence", "cold.test")}
    whole = {("cross_entropy", "text"), ("cross_entropy", "open")}
    assert moved["all"] == moved["all"] | prompts | whole == every
    assert moved["generated"] == moved["answer"] == every - prompts - whole
    assert moved["prompted"] == every - whole
    notes = [one for one in plan_recipe(recipe, (), Catalog.discover()).notes if "can't differ" in one]
    assert notes == [
        "Conditions generated, answer, late edit generated tokens only, and refusal_score, cross_entropy on text, "
        "open, kl_divergence read what follows prompts or given texts, so they can't differ from the baseline there.",
        "Condition late edits generated tokens from number 5 on, which shows in what follows them, and what baselines "
        "reads ends there, so it can't differ from the baseline.",
        "Condition prompted has a system prompt and no intervention, and cross_entropy on text, open reads given texts "
        "as they are, so it can't differ from the baseline there.",
    ]
    assert ("baselines", "cold.test") not in moved["late"] and ("along", "cold.test") in moved["late"]


def test_the_answer_that_ends_a_conversation_is_read_as_a_completion_is(
    records: Mapping[tuple[str, str, str], Mapping[str, Any]],
) -> None:
    conditions = {condition for condition, _, _ in records}
    assert len(conditions) == 8
    for condition in conditions:
        closed, given = (records[condition, "cross_entropy", data] for data in ("closed", "given"))
        assert {**closed, "data": ""} == {**given, "data": ""}, condition


def test_what_is_scored_is_told(recipe: Path, run: Path) -> None:
    page = write_report(run).read_text("utf-8").replace("<wbr>", "")
    for kind in (
        "the completions that given gives, without their prompts (two texts)",
        "the answers that conversations of closed end with, without what is before them (two texts)",
        "the whole conversations of open, the chat template&#39;s tokens included (one text)",
    ):
        assert kind in page, kind
    (note,) = [one for one in plan_recipe(recipe, (), Catalog.discover()).notes if "as a whole" in one]
    assert note.startswith("cross_entropy reads 1 of 1 conversation of open as a whole, since it ends with no answer")
