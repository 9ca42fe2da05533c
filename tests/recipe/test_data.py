"""Data sets: every format, splits by size and seed, and every row that can't be used."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.errors import DataError
from steerkit.recipe import DataRef, recipe_from_mapping
from steerkit.recipe.data import Splits, load_data, parse_ref, split_rows
from steerkit.recipe.schema import DatasetRecipe, SplitRecipe

TEXTS = ["one, two", 'a "quoted" word', "über-lang", "line\nbreak"]


def load(folder: Path, **data: dict[str, Any]) -> tuple[dict[str, dict[str, tuple[str, ...]]], list[str]]:
    """The texts of every split, and the problems."""
    found, problems = load_examples(folder, **data)
    return {name: {part: tuple(one.text for one in by[part]) for part in by} for name, by in found.items()}, problems


def load_examples(folder: Path, **data: dict[str, Any]) -> tuple[dict[str, Splits], list[str]]:
    recipe = recipe_from_mapping({"name": "r", "seed": 1, "model": {"source": "m"}, "data": data}, folder)
    found, problems = load_data(recipe)
    return found, [f"{problem.where}: {problem.message}" for problem in problems]


def write_all(folder: Path) -> None:
    rows = [{"id": index, "prompt": text} for index, text in enumerate(TEXTS)]
    (folder / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", "utf-8")
    (folder / "strings.jsonl").write_text("\n".join(json.dumps(text) for text in TEXTS), "utf-8")
    (folder / "a.json").write_text(json.dumps(rows), "utf-8")
    with (folder / "a.csv").open("w", encoding="utf-8-sig", newline="") as file:
        import csv

        writer = csv.writer(file)
        writer.writerows([["id", "prompt"], *([index, text] for index, text in enumerate(TEXTS))])
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "a.parquet")
    (folder / "a.txt").write_bytes("\r\n".join(text.replace("\n", " ") for text in TEXTS).encode() + b"\r\n")


@pytest.mark.parametrize("name", ["a.jsonl", "strings.jsonl", "a.json", "a.csv", "a.parquet", "a.txt"])
def test_every_format_gives_the_texts_in_their_order(tmp_path: Path, name: str) -> None:
    write_all(tmp_path)
    found, problems = load(tmp_path, d={"file": name})
    assert problems == []
    expected = [text.replace("\n", " ") for text in TEXTS] if name == "a.txt" else TEXTS
    assert found["d"] == {"all": tuple(expected)}


def test_hub_data_sets_come_through_the_package_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def load_dataset(*args: object, **kwargs: object) -> list[dict[str, str]]:
        calls.append((args, kwargs))
        return [{"instruction": "a", "output": "x"}, {"instruction": "b", "output": "y"}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    found, problems = load(tmp_path, d={"hub": "org/name", "config": "c", "hub_split": "test", "field": "instruction"})
    assert (found["d"]["all"], problems) == (("a", "b"), [])
    assert calls == [(("org/name", "c"), {"split": "test"})]


def test_a_hub_that_is_out_of_reach_is_said_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=fail))
    assert "ConnectionError: no route Where no hub is reachable" in load(tmp_path, d={"hub": "org/name"})[1][0]
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "needs the package `datasets`" in load(tmp_path, d={"hub": "org/name"})[1][0]


@pytest.mark.parametrize(
    ("name", "content", "options", "part"),
    [
        ("x.jsonl", b'{"text": "a"}\n{"text": \n', {}, "x.jsonl, row 2 is not JSON"),
        ("x.jsonl", b'{"text": "a"}\n{"text": 5}\n', {}, "row 2 holds int instead of text"),
        ("x.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', {}, "row 2 has no text"),
        ("x.jsonl", b'{"text": "a"}\n\n{"text": "  "}\n', {}, "x.jsonl, row 3 is empty"),
        ("x.jsonl", b'{"q": "a", "b": 1}\n', {"field": "w"}, "has no field 'w'. Available: b, q"),
        ("x.jsonl", b'{"prompts": "a", "b": 1}\n', {"field": "prompt"}, "Did you mean 'prompts'?"),
        ("x.jsonl", b'{"q": "a", "b": "c"}\n', {}, "which field holds the text? Set `field` to one of q, b"),
        ("x.jsonl", b'"a"\n', {"field": "text"}, "plain texts, without fields"),
        ("x.jsonl", b"", {}, "x.jsonl holds no texts"),
        (
            "x.jsonl",
            b'"a"\n' + b"9" * 5000 + b"\n",
            {},
            "row 2 is not JSON that can be read: a number in it has too many",
        ),
        ("x.json", b"[" + b"9" * 5000 + b"]", {}, "x.json is not JSON that can be read"),
        ("x.jsonl", b'"a"\n"b \\ud83d"\n', {}, "x.jsonl, row 2 holds half a character"),
        ("x.jsonl", b'"a"\n"b"\n" A  "\n', {}, "x.jsonl, row 3 repeats row 1 (' A  ')"),
        ("x.jsonl", b'"a"\n"A"\n"a"\n"a "\n" a"\n', {}, "rows 2, 3, 4 and 1 more: each repeats an earlier row"),
        ("x.json", b'{"rows": []}', {}, "must hold a list of texts or of objects, not a JSON dict"),
        ("x.json", b"[1,", {}, "x.json is not JSON"),
        ("x.csv", b"text,id\na,1\nb\n", {}, "row 2 doesn't have 2 columns"),
        ("x.csv", b'text,id\n"a,1\n', {}, "is not CSV"),
        ("x.txt", b"a\n\nb\n", {}, "x.txt, row 2 is empty"),
        ("x.txt", b"a\n\xff\n", {}, "x.txt is not UTF-8 text (byte 2)"),
        ("x.parquet", b"nothing like it", {}, "x.parquet is not a Parquet file"),
        ("x.yaml", b"a", {}, "x.yaml has an unknown ending"),
        ("x.txt", b"a\nb\n", {"split": {"train": 2, "test": 1}}, "asks for 3 texts (train 2 + test 1); there are 2"),
    ],
)
def test_what_is_wrong_with_a_file_names_file_and_row(
    tmp_path: Path, name: str, content: bytes, options: dict[str, Any], part: str
) -> None:
    (tmp_path / name).write_bytes(content)
    (problem,) = load(tmp_path, d={"file": name, **options})[1]
    assert problem.startswith("data.d: ")
    assert part in problem


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "words.jsonl").write_text('"a"', "utf-8")
    assert "Did you mean 'words.jsonl'?" in load(tmp_path, d={"file": "word.jsonl"})[1][0]
    assert "Its folder isn't there either" in load(tmp_path, d={"file": "no/word.jsonl"})[1][0]
    (tmp_path / "d.txt").mkdir()
    assert "is a folder" in load(tmp_path, d={"file": "d.txt"})[1][0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "d.txt")
    assert "is a pipe or a device, not a file" in load(tmp_path, d={"file": "d.txt"})[1][0]


def test_duplicates_can_be_dropped(tmp_path: Path) -> None:
    found, problems = load(tmp_path, d={"inline": ["a", "b", "A "], "duplicates": "drop"})
    assert (found["d"]["all"], problems) == (("a", "b"), [])


def test_texts_may_not_be_in_two_of_train_validation_and_test(tmp_path: Path) -> None:
    shared = {"inline": ["Same  text", "x"], "split": {"train": 2}}
    _, problems = load(tmp_path, one=shared, two={"inline": ["same text", "y"], "split": {"test": 2}})
    assert problems == ["data.two: one.train and two.test must be disjoint, but share 1 text: 'same text'."]
    _, problems = load(
        tmp_path,
        one={"inline": ["a"], "split": {"validation": 1}},
        two={"inline": ["a"], "split": {"test": 1}},
        three={"inline": ["a"], "split": {"test": 1}},
    )
    assert len(problems) == 2
    _, problems = load(tmp_path, one=shared, two=shared)
    assert problems == []


@given(
    n=st.integers(1, 40),
    train=st.integers(1, 20),
    validation=st.integers(1, 10),
    test=st.integers(1, 10),
    seed=st.integers(0, 2**32 - 1),
)
def test_splits_have_their_sizes_are_disjoint_and_depend_on_the_seed_alone(
    n: int, train: int, validation: int, test: int, seed: int
) -> None:
    dataset = DatasetRecipe(inline=(), split=SplitRecipe(train=train, validation=validation, test=test))
    texts = [f"t{index:03}" for index in range(train + validation + test + n)]
    splits = split_rows(texts, dataset, seed)
    assert {part: len(found) for part, found in splits.items()} == {
        "train": train,
        "validation": validation,
        "test": test,
    }
    drawn = [text for found in splits.values() for text in found]
    assert len(set(drawn)) == len(drawn)
    assert all(list(found) == sorted(found) for found in splits.values())
    assert splits == split_rows(texts, dataset, seed)
    pairs = split_rows([f"p{text}" for text in texts], dataset, seed)
    assert [[text[1:] for text in pairs[part]] for part in pairs] == [list(splits[part]) for part in splits]


def test_another_seed_draws_another_split() -> None:
    dataset = DatasetRecipe(inline=(), split=SplitRecipe(train=10))
    texts = [str(index) for index in range(100)]
    assert len({split_rows(texts, dataset, seed)["train"] for seed in range(20)}) == 20


def test_a_data_sets_own_seed_comes_before_the_recipes(tmp_path: Path) -> None:
    texts = [f"t{index}" for index in range(50)]
    common = {"inline": texts, "split": {"train": 10}}
    found, _ = load(tmp_path, a=common, b={**common, "seed": 1}, c={**common, "seed": 2})
    assert found["a"] == found["b"] != found["c"]


def test_references_say_what_there_is_instead() -> None:
    data: dict[str, Splits] = {"warm": {"train": ("a",), "test": ("b",)}, "plain": {"all": ("c",)}}
    assert parse_ref("warm.train", data) == DataRef("warm", "train")
    assert str(parse_ref("plain", data)) == "plain"
    assert parse_ref("plain.all", data) == parse_ref("plain", data)
    for text, part in [
        ("warm", "name the part: warm.train or warm.test"),
        ("warm.tset", "Did you mean 'warm.test'"),
        ("plain.train", "'plain' isn't split, so plain alone is meant"),
        ("wram.train", "Did you mean 'warm.train'"),
        ("", "Available: plain, warm.test, warm.train"),
    ]:
        with pytest.raises(DataError) as caught:
            parse_ref(text, data)
        assert part in str(caught.value)


def test_rows_in_the_recipe_have_fields_as_rows_of_a_file_have(tmp_path: Path) -> None:
    rows = [
        {"text": "one", "tone": "warm", "about": {"n": 1}},
        {"text": "two", "tone": "cold"},
        {"text": "three", "tone": "warm"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    keys: dict[str, Any] = {"label": "tone", "where": {"tone": "warm"}}
    found, problems = load_examples(
        tmp_path, inline={"inline": rows, **keys}, filed={"file": "rows.jsonl", "duplicates": "drop", **keys}
    )
    assert problems == []
    assert found["inline"] == found["filed"]
    first, last = found["inline"]["all"]
    assert (first.text, first.label, first.fields) == ("one", "warm", {"about": {"n": 1}}) and last.text == "three"
    pair = {"inline": [{"q": "Is it?", "yes": "Yes.", "no": "No."}], "field": "q"}
    found, problems = load_examples(
        tmp_path, p={**pair, "pairs": {"of": "completions", "positive": "yes", "negative": "no"}}
    )
    assert problems == [] and found["p"]["negative"][0].completion == "No."
    _, problems = load_examples(tmp_path, bad={"inline": ["a", {"text": "b"}, {"text": 5}]})
    assert problems == ["data.bad.inline.2: inline, row 3 holds int instead of text."]
