"""Data sets of others: side by side, with labels, perhaps with a text behind the user's turn."""

from __future__ import annotations

from typing import Any

from steerkit.recipe.data import load_data
from steerkit.recipe.draft import Draft
from steerkit.recipe.load import recipe_from_mapping
from steerkit.types import Example

BAD = {
    "inline": [{"text": f"bad {n}", "topic": "t"} for n in range(6)],
    "split": {"train": 2, "validation": 2, "test": 2},
}
GOOD = {"inline": [f"good {n}" for n in range(9)], "split": {"train": 3, "test": 4}}


def load(**data: Any) -> tuple[dict[str, dict[str, list[Example]]], list[str]]:
    recipe = recipe_from_mapping({"model": {"source": "m"}, "name": "r", "seed": 1, "data": data})
    loaded, problems = load_data(recipe if isinstance(recipe, Draft) else Draft(recipe.recipe))
    found = {name: {part: list(rows) for part, rows in splits.items()} for name, splits in loaded.items()}
    return found, [f"{problem.where}: {problem.message}" for problem in problems]


def test_parts_are_laid_side_by_side_with_a_label_each() -> None:
    found, problems = load(bad=BAD, good=GOOD, both={"of": {"harmful": "bad", "harmless": "good"}})
    assert not problems
    assert list(found["both"]) == ["train", "test"], "good has no validation part"
    for part in ("train", "test"):
        labelled = [(one.text, one.label) for one in found["both"][part]]
        expected = [(one.text, "harmful") for one in found["bad"][part]]
        assert labelled == expected + [(one.text, "harmless") for one in found["good"][part]]
    assert found["both"]["test"][0].fields == found["bad"]["test"][0].fields, "other fields stay"
    assert found["bad"]["test"][0].label is None, "the others stay as they are"


def test_a_suffix_stands_behind_the_last_turn_of_the_user() -> None:
    turns = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "x"},
    ]
    talks = {"inline": [{"turns": turns}], "messages": "turns"}
    found, problems = load(
        talks=talks, marked={"of": {"talk": "talks"}, "suffix": " zub"}, again={"of": {"t": "marked"}, "suffix": "!"}
    )
    assert not problems
    (one,), (again,) = found["marked"]["all"], found["again"]["all"]
    assert [turn.content for turn in one.messages] == ["one", "two", "x zub"] and one.label == "talk"
    assert again.text == "x zub!" and again.label == "t"


def test_mistakes_are_told_where_they_stand() -> None:
    _, problems = load(both={"of": {"a": "bad", "b": "goodd"}}, bad=BAD, good=GOOD)
    assert problems == [
        "data.both.of.a: 'bad' doesn't stand before this data set; put it there",
        "data.both.of.b: 'goodd' is no data set. No data set is available.",
    ] or problems[0].startswith("data.both.of.a: 'bad' doesn't stand before")
    _, problems = load(bad=BAD, whole={"inline": ["w"]}, both={"of": {"a": "bad", "b": "whole"}})
    assert problems == [
        "data.both.of: these data sets have no part in common: bad has train, validation, test; whole has all"
    ]
    _, problems = load(bad=BAD, twice={"of": {"a": "bad", "b": "bad"}})
    assert len(problems) == 1 and "holds prompts with two labels: they share 2 texts" in problems[0]


def test_pairs_of_two_data_sets_stay_apart() -> None:
    """Both count theirs from 0; whoever leaves a pair out must not leave out one of the other data set."""
    pairs = {"of": "prompts", "positive": "yes", "negative": "no"}
    one = {"inline": [{"yes": f"y{n}", "no": f"n{n}"} for n in range(3)], "pairs": pairs, "split": {"train": 2}}
    other = {"inline": [{"yes": f"z{n}", "no": f"m{n}"} for n in range(2)], "pairs": pairs, "split": {"train": 2}}
    found, problems = load(one=one, other=other, both={"of": {"a": "one", "b": "other"}})
    assert not problems
    positive, negative = found["both"]["train.positive"], found["both"]["train.negative"]
    numbers = [row.pair for row in positive]
    assert len(set(numbers)) == 4 and numbers == [row.pair for row in negative]
    assert [row.text[1:] for row in positive] == [row.text[1:] for row in negative]


def test_what_the_model_says_is_joined_by_its_prompts() -> None:
    said = {"completions": {"of": "bad", "max_new_tokens": 3}}
    both: dict[str, Any] = {"of": {"a": "said", "b": "good"}}
    for order in ({"said": said, "both": both}, {"both": both, "said": said}):
        _, problems = load(bad=BAD, good=GOOD, **order)
        assert problems == [
            "data.both.of.a: 'said' holds what the model says, which only a run writes: name the data set of its "
            "prompts, and let `completions` be of this one"
        ]


def test_what_is_split_or_read_belongs_to_the_others() -> None:
    for extra, message in (
        ({"split": {"test": 1}}, "the examples of other data sets are what they are; remove split"),
        ({"file": "x.jsonl"}, "expected one of file, inline, hub, completions and of, not file and of"),
    ):
        try:
            load(bad=BAD, both={"of": {"a": "bad"}, **extra})
        except Exception as error:
            assert message in str(error)
        else:
            raise AssertionError(message)


def test_a_recipe_that_is_written_down_reads_as_itself() -> None:
    from steerkit.recipe import recipe_from_mapping as read
    from steerkit.recipe.document import read_document, write_document

    draft = read(
        {"model": {"source": "m"}, "name": "r", "data": {"bad": BAD, "b": {"of": {"x": "bad"}, "suffix": " z"}}}
    )
    again = read(read_document(write_document(draft.resolved())).value)
    assert again.recipe == draft.recipe


def test_of_data_that_can_not_be_read_nothing_follows() -> None:
    lost = {"file": "/nowhere/lost.jsonl", "field": "text", "split": {"train": 2, "test": 2}}
    found, (problem,) = load(bad=lost, good=GOOD, both={"of": {"harmful": "bad", "harmless": "good"}})
    assert problem.startswith("data.bad: there is no file")
    assert found["both"] == {"train": [], "test": []}, "what all of them hold isn't known"
