"""Examples in a plan: references to pairs, positions that data can't have, leaks between prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steerkit.plan import DataRef, held_out
from steerkit.types import Positions
from tests.plan.conftest import Planner, Problems

RECIPE = """\
name: pairs
model: {source: "tiny-random:llama"}
data:
  caa:
    file: caa.jsonl
    field: question
    label: topic
    pairs: {of: completions, positive: matching, negative: other}
    split: {train: 4, test: 2}
  talk: {file: talk.jsonl, messages: turns}
directions:
  truth:
    estimator: mean_difference
    positive: caa.train.positive
    negative: caa.train.negative
    site: blocks.1.resid_pre
    positions: completion
conditions:
  more: [ {add: {direction: truth, coefficient: 2.0, positions: "user[-1]"}} ]
evaluate:
  - cross_entropy: {data: [caa.test.positive, caa.test.negative]}
"""


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    rows = [{"question": f"Q{n}?", "matching": f" yes {n}", "other": f" no {n}", "topic": n % 2} for n in range(6)]
    (tmp_path / "caa.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    talks = [{"turns": [{"role": "system", "content": "s"}, {"role": "user", "content": f"u{n}"}]} for n in range(2)]
    talks[1]["turns"] += [{"role": "assistant", "content": "a"}]
    (tmp_path / "talk.jsonl").write_text("\n".join(map(json.dumps, talks)), "utf-8")


def test_a_plan_holds_examples_and_their_sides(plan: Planner) -> None:
    found = plan(RECIPE)
    (direction,) = found.directions
    assert direction.positive == DataRef("caa", "train.positive") and direction.positions == Positions("completion")
    positive, negative = (found.examples(ref) for ref in (direction.positive, DataRef("caa", "train.negative")))
    assert [one.pair for one in positive] == [one.pair for one in negative]
    assert all(one.completion == f" yes {one.text[1]}" and one.label == int(one.text[1]) % 2 for one in positive)
    assert held_out(direction.positive, found.data) == DataRef("caa", "test.positive")
    assert found.to_json()["data"]["caa.test.negative"] == 2
    # A batch for each class, then for each class and what is held out of it; controls are rows of their condition's.
    assert dict(found.cost.parts) == {
        "directions": 2,
        "separation by layer": 4,
        "baseline": 2,
        "conditions": 2,
    }


PAIRS = "pairs: {of: completions, positive: matching, negative: other}"
OWN = "directions.truth"
EDIT = "conditions.more.0.add.positions"


@pytest.mark.parametrize(
    ("old", "new", "line", "where", "expected"),
    [
        ("positions: completion", "positions: -1", 17, f"{OWN}.positions", "differ in completions only"),
        ("caa.train.positive", "caa.train", 14, f"{OWN}.positive", "caa.train.positive"),
        ("caa.train.positive", "caa", 14, f"{OWN}.positive", "name the part: caa.train.positive or"),
        (
            "negative: caa.train.negative",
            "negative: talk",
            17,
            f"{OWN}.positions",
            "2 of 2 examples of talk have no comp",
        ),
        ("positions: completion", "positions: tool[-1]", 17, f"{OWN}.positions", "no such turn of the tool's"),
        ('positions: "user[-1]"', "positions: system", 19, EDIT, "no such turn of the system's"),
        ('positions: "user[-1]"', 'positions: "user[1]"', 19, EDIT, "no such turn of the user's"),
        (
            *("cross_entropy: {data: [caa.test.positive", "refusal_score: {data: [talk", 21),
            *("evaluate.0.refusal_score.data", "1 of 2 examples of talk has no answer to give"),
        ),
        ("caa.test.positive, caa.test.negative", "caa.train.positive, caa.test.negative", None, "", ""),
        ("split: {train: 4, test: 2}", "split: {train: 4, test: 2, validation: 1}", 4, "data.caa", "asks for 7 pairs"),
        (PAIRS, "pairs: {positive: matching, negative: other}", 8, "data.caa.pairs.of", "required"),
    ],
)
def test_what_data_cannot_have_is_told(
    plan: Planner, problems: Problems, old: str, new: str, line: int | None, where: str, expected: str
) -> None:
    text = RECIPE.replace(old, new)
    if not where:  # said, and allowed: the recipe asks for it by name
        assert any("not held out" in note for note in plan(text).notes)
        return
    found = problems(text)
    assert any((at, key) == (line, where) and expected in message for at, key, message in found), found


def test_a_system_prompt_is_a_turn_that_every_example_has(plan: Planner) -> None:
    text = RECIPE.replace('positions: "user[-1]"', "positions: system")
    assert plan(text, "model.system_prompt=Be kind.").conditions


def test_a_prompt_that_directions_saw_is_not_measured_whatever_follows_it(problems: Problems) -> None:
    text = RECIPE.replace("  talk:", "  again: {file: caa.jsonl, field: question, completion: other}\n  talk:")
    found = problems(text.replace("data: [caa.test.positive", "data: [again, caa.test.positive"))
    assert any(
        "must not be measured on the same texts: caa.train.negative and again share 4" in one[2] for one in found
    )


def test_the_hash_is_over_examples_and_template_arguments(plan: Planner, tmp_path: Path) -> None:
    before = plan(RECIPE).hash
    assert plan(RECIPE).hash == before
    assert plan(RECIPE, "model.chat_template_arguments={enable_thinking: false}").hash != before
    path = tmp_path / "caa.jsonl"
    path.write_text(path.read_text("utf-8").replace('"topic": 1', '"topic": 2'), "utf-8")
    assert plan(RECIPE).hash != before


def test_a_turn_that_the_template_drops_is_told_before_a_model_is_loaded(problems: Problems, tmp_path: Path) -> None:
    (tmp_path / "last.jinja").write_text("{{ messages[-1]['content'] }}:", "utf-8")
    text = RECIPE.replace(
        '"tiny-random:llama"}', '"tiny-random:llama", chat_template: {file: last.jinja}, system_prompt: s}'
    )
    found = problems(text.replace('positions: "user[-1]"', "positions: system"))
    assert [one[:2] for one in found] == [(19, EDIT)] * 2
    assert "have a turn of the system's that the chat template doesn't show" in found[0][2]


def test_conversations_and_arguments_need_a_template(problems: Problems) -> None:
    text = RECIPE.replace("[caa.test.positive, caa.test.negative]", "[talk]")
    found = problems(text, "model.chat_template=none", "model.chat_template_arguments={a: 1}")
    assert sorted(one[1] for one in found) == ["--set model.chat_template_arguments", "data.talk"]
    assert all("chat_template is none" in one[2] for one in found)
