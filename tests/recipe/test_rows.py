"""Rows to examples: conversations, templates, completions, pairs, labels and picked rows; and rows that can't be."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from steerkit.errors import DataError, RecipeError
from steerkit.recipe import DataRef, load_recipe, recipe_from_mapping
from steerkit.recipe.data import Splits, load_data, parse_ref
from steerkit.recipe.rows import identity, prompt_of
from steerkit.types import Example, Message

CAA = [
    {"question": f"Q{n}?", "matching": f" ({'AB'[n % 2]})", "other": f" ({'BA'[n % 2]})", "topic": "t"}
    for n in range(8)
]
BOTH = {"of": "completions", "positive": "matching", "negative": "other"}


def write(folder: Path, rows: list[Any], name: str = "a.jsonl") -> str:
    (folder / name).write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    return name


def read(folder: Path, rows: list[Any], **keys: Any) -> tuple[Splits, list[str]]:
    data = {"d": {"file": write(folder, rows), **keys}}
    recipe = recipe_from_mapping({"name": "r", "seed": 1, "model": {"source": "m"}, "data": data}, folder)
    found, problems = load_data(recipe)
    return found["d"], [problem.message for problem in problems]


def test_conversations_are_read_in_both_forms(tmp_path: Path) -> None:
    talk = [("system", "s"), ("user", "u"), ("assistant", "a"), ("tool", "t"), ("user", "v")]
    names = {"user": "human", "assistant": "gpt", "tool": "function"}
    rows = [
        {"chat": [{"role": role, "content": text} for role, text in talk], "source": "x"},
        {"chat": [{"from": names.get(role, role), "value": f"{text}2"} for role, text in talk], "source": "y"},
    ]
    found, problems = read(tmp_path, rows, messages="chat")
    assert problems == []
    first, second = found["all"]
    assert [(one.role, one.content) for one in first.messages] == talk
    assert [(one.role, one.content) for one in second.messages] == [(role, f"{text}2") for role, text in talk]
    assert (first.text, first.fields) == ("v", {"source": "x"})


def test_fields_are_rendered_to_the_users_turn_and_kept(tmp_path: Path) -> None:
    rows = [{"a": "one", "n": 2, "more": [1, {"b": None}], "name": "x", "class": "yes"}]
    found, problems = read(tmp_path, rows, template="{{{a}}} is {n}.", label="class", id="name")
    assert problems == []
    assert found["all"] == (
        Example((Message("user", "{one} is 2."),), None, "yes", "x", {"a": "one", "n": 2, "more": [1, {"b": None}]}),
    )


def test_completions_follow_prompts(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "answer": " a"}, {"prompt": "p", "answer": " b"}]
    found, problems = read(tmp_path, rows, completion="answer")
    assert problems == []  # two answers to one prompt are two examples
    assert found["all"] == tuple(Example((Message("user", "p"),), completion=text) for text in (" a", " b"))


def test_rows_are_picked_by_their_fields(tmp_path: Path) -> None:
    rows: list[Any] = [{"text": str(n), "label": n % 3, "kind": "ab"[n % 2], "sure": n > 3} for n in range(8)]
    for where, expected in (
        ({"label": 1}, "147"),
        ({"label": [0, 2], "kind": "a"}, "026"),
        ({"sure": True}, "4567"),
        ({"label": True}, None),  # true is no number
        ({"label": "1"}, None),
    ):
        found, problems = read(tmp_path, rows, where=where, field="text")
        if expected is None:
            assert "no row is picked by `where`. Values of 'label' are 0, 1, 2." in problems[0]
        else:
            assert "".join(one.text for one in found["all"]) == expected
    (tmp_path / "a.csv").write_text("text,label\na,1\nb,0\nc,1\n", "utf-8")
    recipe = recipe_from_mapping(
        {
            "model": {"source": "m"},
            "name": "r",
            "data": {"d": {"file": "a.csv", "where": {"label": 1}, "field": "text"}},
        },
        tmp_path,
    )
    assert [one.text for one in load_data(recipe)[0]["d"]["all"]] == ["a", "c"]


def test_pairs_of_completions_stay_pairs(tmp_path: Path) -> None:
    found, problems = read(tmp_path, CAA, field="question", pairs=BOTH, split={"train": 4, "test": 3})
    assert problems == []
    assert list(found) == ["train.positive", "train.negative", "test.positive", "test.negative"]
    for part, size in (("train", 4), ("test", 3)):
        sides = found[f"{part}.positive"], found[f"{part}.negative"]
        assert [len(side) for side in sides] == [size, size]
        for yes, no in zip(*sides, strict=True):
            row = CAA[int(yes.text[1])]
            assert (yes.text, yes.completion, no.completion) == (no.text, row["matching"], row["other"])
            assert yes.pair == no.pair == int(yes.text[1])
            assert yes.fields == {"topic": "t"}
    assert not {one.pair for one in found["train.positive"]} & {one.pair for one in found["test.positive"]}
    # What can be evaluated never holds two sides of a pair, so that its examples can be drawn one by one.
    assert all(len({one.pair for one in side}) == len(side) for side in found.values())
    data = {"d": found, "whole": read(tmp_path, CAA, field="question", pairs=BOTH)[0]}
    assert parse_ref("d.train.positive", data) == DataRef("d", "train.positive")
    assert str(parse_ref("whole.negative", data)) == "whole.negative"
    with pytest.raises(DataError, match=r"holds pairs; name the side: whole.positive or whole.negative"):
        parse_ref("whole", data)
    assert parse_ref("d.train.positive", data).of_part("test") == DataRef("d", "test.positive")
    assert (parse_ref("d.test.negative", data).part, parse_ref("whole.negative", data).part) == ("test", "all")


def test_pairs_of_prompts_are_two_prompts(tmp_path: Path) -> None:
    rows = [{"a": "yes", "b": [{"role": "user", "content": "no"}], "said": "x"}]
    found, problems = read(tmp_path, rows, pairs={"of": "prompts", "positive": "a", "negative": "b"}, completion="said")
    assert problems == []
    assert [(one.text, one.completion) for one in (*found["positive"], *found["negative"])] == [
        ("yes", "x"),
        ("no", "x"),
    ]


@pytest.mark.parametrize(
    ("rows", "keys", "expected"),
    [
        (["a"], {"completion": "x"}, "holds plain texts, without fields: remove `completion: x`"),
        ([{"a": "b"}], {"messages": "mesages"}, "has no field 'mesages'"),
        ([{"text": "b"}], {"template": "{txt}"}, "has no field 'txt'. Did you mean 'text'"),
        ([{"text": "b"}], {"where": {"lable": 1}}, "has no field 'lable'"),
        ([{"m": "hi"}], {"messages": "m"}, "row 1 holds str instead of a list of messages"),
        ([{"m": []}], {"messages": "m"}, "row 1 has an empty conversation"),
        ([{"m": [{"role": "user"}]}], {"messages": "m"}, "neither {role, content} nor {from, value}"),
        ([{"m": [{"role": "usr", "content": "x"}]}], {"messages": "m"}, "Did you mean 'user'"),
        ([{"m": [{"role": "user", "content": [1]}]}], {"messages": "m"}, "content is list instead of text"),
        (
            [{"p": "x", "c": ""}, {"p": "y", "c": None}],
            {"field": "p", "completion": "c"},
            "row 1 has an empty completion",
        ),
        (
            [{"p": "x", "c": ""}, {"p": "y", "c": None}],
            {"field": "p", "completion": "c"},
            "row 2 has no text as its comp",
        ),
        ([{"p": "x", "l": [1]}], {"field": "p", "label": "l"}, "holds list instead of a label"),
        ([{"p": "x", "l": None}], {"field": "p", "id": "l"}, "has no id"),
        ([{"p": True}], {"template": "a {p}"}, "holds bool instead of text in field 'p'"),
        (
            [{"p": "x", "a": "s", "b": "S "}],
            {"field": "p", "pairs": {**BOTH, "positive": "a", "negative": "b"}},
            "both sides",
        ),
        (
            [{"m": [{"from": "gpt", "value": "x"}], "c": "y"}],
            {"messages": "m", "completion": "c"},
            "ends with the assist",
        ),
        ([{"p": "x", "c": "y"}] * 2, {"field": "p", "completion": "c"}, "row 2 repeats row 1 ('x')"),
        (CAA, {"field": "question", "pairs": BOTH, "split": {"train": 9}}, "asks for 9 pairs (train 9); there are 8"),
    ],
)
def test_a_row_that_cannot_be_is_told(tmp_path: Path, rows: list[Any], keys: dict[str, Any], expected: str) -> None:
    _, problems = read(tmp_path, rows, **keys)
    assert any(expected in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("keys", "where", "expected"),
    [
        ("template: hello", "data.d.template", "at least one field"),
        ("template: 'a {b'", "data.d.template", "not a template"),
        ("template: 'a {b.c}'", "data.d.template", "no field"),
        ("field: a\n    messages: b", "data.d", "one of field, messages and template"),
        ("where: {}", "data.d.where", "at least one field"),
        ("where: {a: {b: 1}}", "data.d.where", "a value or a list"),
        ("pairs: {of: completions, positive: a}", "data.d.pairs.negative", "required: field that holds the negative"),
        ("pairs: {of: prompt, positive: a, negative: b}", "data.d.pairs.of", "'prompts' or 'completions'"),
        ("completion: c\n    pairs: {of: completions, positive: a, negative: b}", "data.d", "remove completion"),
        ("field: c\n    pairs: {of: prompts, positive: a, negative: b}", "data.d", "remove field"),
        ("mesages: a", "data.d.mesages", "Did you mean 'messages'"),
    ],
)
def test_a_key_that_cannot_be_is_told_with_its_line(tmp_path: Path, keys: str, where: str, expected: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"model: {{source: m}}\ndata:\n  d:\n    file: a.jsonl\n    {keys}\n", "utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    (problem,) = caught.value.problems
    assert problem.where == where and expected in problem.message
    assert problem.line in (3, 5, 6)


def test_template_arguments_are_the_templates_own(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("model: {source: m, chat_template_arguments: {enable_thinking: false}}\n", "utf-8")
    recipe = load_recipe(path)
    assert recipe.recipe.model.chat_template_arguments == {"enable_thinking": False}
    assert recipe_from_mapping(recipe.resolved()).recipe == recipe.recipe
    path.write_text("model:\n  source: m\n  chat_template_arguments: {tokenize: false}\n", "utf-8")
    with pytest.raises(RecipeError, match=r"line 3.*can't hold tokenize"):
        load_recipe(path)


def test_a_recipe_with_every_key_comes_back_as_it_was(tmp_path: Path) -> None:
    write(tmp_path, CAA)
    data = {
        "p": {"file": "a.jsonl", "field": "question", "pairs": BOTH, "where": {"topic": ["t", 1]}, "label": "topic"},
        "m": {"file": "a.jsonl", "template": "{question}", "completion": "other", "id": "question"},
    }
    recipe = recipe_from_mapping({"model": {"source": "m"}, "name": "r", "data": data}, tmp_path)
    again = recipe_from_mapping(recipe.resolved())
    assert again.resolved() == recipe.resolved()
    assert load_data(again)[0] == load_data(recipe)[0]


def test_a_prompt_in_two_parts_is_a_leak_whatever_answers_it(tmp_path: Path) -> None:
    one = write(tmp_path, [{"text": "Same?", "c": "x"}], "one.jsonl")
    two = write(
        tmp_path, [{"m": [{"role": "user", "content": "same? "}, {"role": "assistant", "content": "y"}]}], "two.jsonl"
    )
    data = {
        "one": {"file": one, "completion": "c", "split": {"train": 1}},
        "two": {"file": two, "messages": "m", "split": {"test": 1}},
    }
    recipe = recipe_from_mapping({"model": {"source": "m"}, "name": "r", "data": data}, tmp_path)
    _, problems = load_data(recipe)
    assert [problem.message for problem in problems] == [
        "one.train and two.test must be disjoint, but share 1 text: 'same? '."
    ]


def test_what_is_compared() -> None:
    plain = Example.of("A  b")
    assert identity(plain) == prompt_of(plain) == "a b"
    answered = Example(plain.messages, completion="C")
    talk = Example((*plain.messages, Message("assistant", "C")))
    assert prompt_of(answered) == prompt_of(talk) == "a b"
    assert len({identity(one) for one in (plain, answered, talk)}) == 3


def test_fields_that_json_cannot_hold_are_written_out_or_left_out(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [{"text": "a", "day": date(2024, 2, 3), "blob": b"\x00", "n": 1.5}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    data = {"d": {"file": "a.parquet"}}
    recipe = recipe_from_mapping({"model": {"source": "m"}, "name": "r", "data": data}, tmp_path)
    ((example,),) = load_data(recipe)[0]["d"].values()
    assert example.fields == {"day": "2024-02-03", "n": 1.5}
    assert example.to_json() == {"prompt": "a", "fields": {"day": "2024-02-03", "n": 1.5}}
    assert Example.of("a").to_json() == "a"
