"""How answers begin, as a recipe says it: for a data set, for each row, for the model; and what can't be."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerkit.plan import DataRef
from tests.plan.conftest import RECIPE, Planner, Problems

DEAF = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
ROWS = """\
  rows: {inline: [{text: a, begin: "Sure, "}, {text: b, begin: ""}], answer_prefix: {field: begin}}
  none: {inline: [x, y], answer_prefix: ""}
  own: {inline: [x, y], answer_prefix: Well}
  said: {completions: {of: own, max_new_tokens: 2}}
  other: {completions: {of: own, max_new_tokens: 2}, answer_prefix: No}
  talks: {inline: [{turns: [{role: user, content: hi}, {role: assistant, content: ho}]}], messages: turns}
directions:
"""
BEGUN = RECIPE.replace("directions:\n", ROWS, 1).replace('llama"}', 'llama", answer_prefix: "Yes"}')


def test_rows_data_sets_and_the_model_say_how_answers_begin(plan: Planner) -> None:
    found = plan(BEGUN)

    def prefixes(name: str, split: str = "all") -> list[str | None]:
        return [one.answer_prefix for one in found.examples(DataRef(name, split))]

    assert prefixes("rows") == ["Sure, ", None], "an empty text is none"
    assert prefixes("none") == [None, None]
    assert prefixes("own") == prefixes("said") == ["Well", "Well"]
    assert prefixes("other") == ["No", "No"]
    assert prefixes("probe", "test") == ["Yes"] * 3
    assert prefixes("talks") == [None], "an answer that is given doesn't begin again"
    assert [dict(one.fields) for one in found.examples(DataRef("rows"))] == [{}, {}]
    resolved = found.report.resolved
    assert resolved["model"]["answer_prefix"] == "Yes"
    assert resolved["data"]["rows"]["answer_prefix"] == {"field": "begin"}
    assert "answer_prefix" not in plan().report.resolved["model"]
    assert found.hash != plan(BEGUN.replace("Well", "Hm")).hash


def test_a_resolved_recipe_is_read_back(plan: Planner) -> None:
    found = plan(BEGUN)
    assert plan(found.report.recipe).hash == found.hash


def test_its_tokens_are_counted(plan: Planner) -> None:
    few, many = plan(BEGUN), plan(BEGUN.replace('"Yes"', '"Yes, that is what I think"'))
    assert few.cost.prompt_tokens < many.cost.prompt_tokens


@pytest.mark.parametrize(
    ("old", "new", "where", "message"),
    [
        ("{field: begin}", "{field: begun}", "data.rows", "has no field 'begun'. Did you mean 'begin'?"),
        ("{field: begin}", "{felt: begin}", "data.rows.answer_prefix", "expected a text, as in 'Sure, ', or the field"),
        ('begin: ""', "begin: 3", "data.rows.inline.1", "row 2 holds int instead of text as its answer_prefix."),
        (
            "messages: turns}",
            "messages: turns, answer_prefix: Ho}",
            "data.talks.inline.0",
            "has an answer_prefix, and",
        ),
        (
            "answer_prefix: No}",
            "answer_prefix: {field: begin}}",
            "data.other.answer_prefix",
            "a text for all of them",
        ),
        ('"Yes"', '""', "model.answer_prefix", "leave answer_prefix out where answers begin by themselves"),
    ],
)
def test_what_is_no_beginning_is_told_where_it_stands(
    problems: Problems, old: str, new: str, where: str, message: str
) -> None:
    ((_, place, told),) = problems(BEGUN.replace(old, new))
    assert message in told and place.startswith(where.rpartition(".")[0])


def test_positions_of_it_need_data_that_have_it(problems: Problems) -> None:
    text = RECIPE.replace("site: blocks.1.resid_pre}", "site: blocks.1.resid_pre, positions: 'answer_prefix[-1]'}")
    found = problems(text)
    assert len(found) == 2
    assert all("4 of 4 examples of" in told and "have no answer_prefix" in told for _, _, told in found)


def test_a_template_that_leaves_no_answer_open_is_told(problems: Problems, tmp_path: Path) -> None:
    (tmp_path / "deaf.jinja").write_text(DEAF, "utf-8")
    text = BEGUN.replace('answer_prefix: "Yes"', "chat_template: {file: deaf.jinja}")
    ((_, where, told),) = problems(text)
    assert where == "data.rows.answer_prefix" and "leaves no turn of the assistant's open behind a prompt" in told
