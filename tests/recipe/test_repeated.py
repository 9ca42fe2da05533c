"""What is there twice is told, in every format of data, in recipes and in what runs wrote: the last is never taken."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import save_file

from steerkit.api.direction import Direction
from steerkit.api.direction_bytes import HEADER, directions_from_bytes, directions_to_bytes
from steerkit.errors import ArtifactError, DataError
from steerkit.recipe.document import read_document
from steerkit.recipe.tables import read_table

DATA = {
    "rows.jsonl": ('{"text": "a"}\n{"text": "b", "text": "c"}\n', "rows.jsonl, row 2: the key 'text' is there twice"),
    "deep.jsonl": (
        '{"text": "a", "more": [{"k": 1, "k": 1}]}\n',
        "row 1: the key 'k' is there twice: 1 and 1. Keep one",
    ),
    "rows.json": (
        '[{"text": "a"}, {"text": "b", "n": {"k": 1, "k": 2}}]',
        "rows.json: the key 'k' is there twice: 1 and",
    ),
    "rows.csv": ("text,id,text\na,1,b\n", "rows.csv has the column 'text' twice in its header"),
    "empty.csv": ("text,text\n", "has the column 'text' twice"),
    "unnamed.csv": ("text,,\na,,\nb,,c\n", "row 2 has text in columns that have no name"),
}


@pytest.mark.parametrize("name", DATA)
def test_data_that_say_something_twice(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(DATA[name][0], "utf-8")
    with pytest.raises(DataError) as caught:
        read_table(tmp_path / name)
    assert DATA[name][1] in str(caught.value)


def test_a_parquet_file_with_two_columns_of_one_name(tmp_path: Path) -> None:
    table = pyarrow.table([["a"], ["b"]], names=["text", "text"])
    parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(DataError, match="has the column 'text' twice"):
        read_table(tmp_path / "x.parquet")
    field = pyarrow.StructArray.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["k", "k"])
    parquet.write_table(pyarrow.table([field], names=["text"]), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="not a Parquet file that can be read"):
        read_table(tmp_path / "x.parquet")


def test_columns_without_names_that_hold_nothing_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text,label,,\na,1,,\n\nb,2,,\n", "utf-8")
    assert [(row.number, row.value["text"], row.value["label"]) for row in read_table(tmp_path / "x.csv")] == [
        (1, "a", "1"),
        (2, "b", "2"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\na: 2\n",
        '{"a": 1, "a": 2}',
        "x: {a: 1, 'a': 2}",
        "x:\n- {text: one, text: two}",
        '{"x": [{"b": {"c": 1, "c": 2}}]}',
    ],
)
def test_a_recipe_that_says_something_twice(text: str) -> None:
    assert [problem for problem in read_document(text).problems if "appears twice" in problem.message]


def test_a_directions_file_that_says_something_twice(tmp_path: Path) -> None:
    one = Direction(torch.ones(1, 4), "blocks.0.resid_pre", name="d")
    entry = json.loads(json.loads(directions_to_bytes([one])[8:].split(b"}}")[0] + b"}}")["__metadata__"][HEADER])
    written = json.dumps(entry)
    twice = {
        "is there twice": written[:-1] + ', "schema_version": 2}',
        "two directions are called 'd'": json.dumps({**entry, "directions": entry["directions"] * 2}),
    }
    for message, header in twice.items():
        save_file({"d.vectors": torch.ones(1, 4)}, tmp_path / "d.safetensors", metadata={HEADER: header})
        with pytest.raises(ArtifactError, match=message):
            directions_from_bytes((tmp_path / "d.safetensors").read_bytes())
