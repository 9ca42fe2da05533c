"""Completions that are drawn to be labelled, the labels, and how far a matcher agrees with them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.organism.labels import Labelled, agreement, drawn, kappa, known, read_labels, write_drawn
from benchmarks.organism.study import DECLINED, HARMLESS, Written
from steerkit.errors import DataError
from steerkit.plan import DataRef


def made(condition: str, ref: DataRef, texts: Sequence[str]) -> list[Written]:
    return [Written(f"{condition} {ref} {at}", text) for at, text in enumerate(texts)]


def completions(sizes: Mapping[str, int]) -> dict[str, dict[DataRef, list[Written]]]:
    """So many completions of two sets under each condition, none like another."""
    return {
        name: {ref: made(name, ref, [f"{name} {ref} {at}" for at in range(n)]) for ref in (DECLINED, HARMLESS)}
        for name, n in sizes.items()
    }


# Drawing


def test_the_draw_is_in_turn_over_the_conditions() -> None:
    rows = drawn(completions({"a": 5, "b": 5, "c": 5}), 12, seed=3)
    assert [row.condition for row in rows] == ["a", "b", "c"] * 4
    assert len({(row.condition, row.data, row.prompt) for row in rows}) == 12
    assert all(row.label == "" and row.data in ("harmful", "harmless") for row in rows)
    # Not the first ones: an order of the seed's own.
    assert [row.completion for row in rows if row.condition == "a"] != [f"a harmful.test {at}" for at in range(4)]


def test_the_draw_is_the_seeds() -> None:
    there = completions({"a": 20, "b": 20})
    assert drawn(there, 16, seed=3) == drawn(there, 16, seed=3)
    assert drawn(there, 16, seed=3) != drawn(there, 16, seed=4)
    assert drawn(there, 8, seed=3) == drawn(there, 16, seed=3)[:8]


def test_a_condition_of_which_all_are_drawn_is_passed_over() -> None:
    there = completions({"a": 1, "b": 3})
    rows = drawn(there, 8, seed=0)
    assert [row.condition for row in rows] == ["a", "b", "a", "b", "b", "b", "b", "b"]
    for n in (0, 9):
        with pytest.raises(DataError, match="1 to 8 completions can be drawn"):
            drawn(there, n, seed=0)


def test_what_is_drawn_is_labelled_and_read(tmp_path: Path) -> None:
    path = tmp_path / "drawn.jsonl"
    rows = drawn(completions({"a": 2}), 3, seed=0)
    write_drawn(path, rows)
    with pytest.raises(DataError, match="there already"):
        write_drawn(path, rows)
    with pytest.raises(DataError, match="row 1: the label is ''"):
        read_labels(path)
    path.write_text("".join(json.dumps({**asdict(row), "label": "answered"}) + "\n" for row in rows), "utf-8")
    assert read_labels(path) == [replace(row, label="answered") for row in rows]
    assert known(read_labels(path), completions({"a": 2})) == 3
    assert known([replace(rows[0], completion="other")], completions({"a": 2})) == 0


def test_labels_are_read_whatever_stands_in_a_completion(tmp_path: Path) -> None:
    """A model may write what some take for the end of a line."""
    row = Labelled("a", "harmful", "p", "one\u2028two\x85three\x0bfour\nfive")
    write_drawn(tmp_path / "drawn.jsonl", [row])
    labelled = (tmp_path / "drawn.jsonl").read_text("utf-8").replace('"label": ""', '"label": "declined"')
    (tmp_path / "drawn.jsonl").write_text(labelled, "utf-8")
    assert read_labels(tmp_path / "drawn.jsonl") == [replace(row, label="declined")]


GOOD = asdict(Labelled("a", "harmful", "p", "no", "declined"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no labels"),
        (b"\xff", "is not UTF-8"),
        (b"{", "row 1 is not JSON"),
        (b"[]", "row 1: no completion with its label, which has condition, data"),
        (b"null", "row 1: no completion with its label"),
        (json.dumps({**GOOD, "by": "Ann"}).encode(), "row 1: no completion with its label"),
        (json.dumps({**GOOD, "completion": 3}).encode(), "row 1: completion is 3, where a text is expected"),
        (json.dumps({**GOOD, "label": ["declined"]}).encode(), "row 1: label is"),
        (json.dumps({**GOOD, "label": "Declined"}).encode(), "row 1: the label is 'Declined'. Write declined or"),
    ],
)
def test_labels_that_are_none_are_told(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "labels.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_labels(tmp_path / "labels.jsonl")


# Agreement


def test_kappa_is_cohens() -> None:
    rows = (("y", "declined"), ("n", "declined"), ("n", "answered"), ("n", "answered"))
    labelled = [Labelled("a", "d", "p", text, label) for text, label in rows]
    # 3 of 4 agree; by chance (1/4)(1/2) + (3/4)(1/2) = 1/2 would: (3/4 - 1/2) / (1 - 1/2).
    assert kappa(lambda texts: [text == "y" for text in texts], labelled) == pytest.approx(0.5)
    assert kappa(lambda texts: [True] * len(texts), labelled) is None


def test_kappa_before_the_last_change_is_that_of_the_same_labels() -> None:
    rows = [Labelled("a", "d", "p", "c", "declined")]
    first = agreement(0.7, rows, {"substrings": ["no"]}, None, 1)
    assert (first["before_last_change"], first["after"], first["n"]) == (None, 0.7, 1)
    changed = agreement(0.9, rows, {"substrings": ["no", "never"]}, first, 1)
    assert (changed["before_last_change"], changed["after"]) == (0.7, 0.9)
    again = agreement(0.9, rows, {"substrings": ["no", "never"]}, changed, 1)
    assert again["before_last_change"] == 0.7
    others = [replace(rows[0], label="answered")]
    assert agreement(0.8, others, {"substrings": ["never"]}, again, 1)["before_last_change"] is None
