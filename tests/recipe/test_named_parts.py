"""Rows that say themselves which part they are of, and where a file comes from that isn't there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steerkit.errors import Problem, RecipeError
from steerkit.recipe import load_recipe
from steerkit.recipe.data import load_data
from steerkit.recipe.document import read_document

ROWS = [(f"t{place}", "train") for place in range(6)] + [("v0", "validation"), ("x", "elsewhere"), ("e0", "test")]


def loaded(folder: Path, split: str, **more: Any) -> tuple[dict[str, list[str]], list[Problem]]:
    lines = [json.dumps({"text": text, "part": part}) for text, part in ROWS]
    (folder / "d.jsonl").write_text("\n".join(lines), "utf-8")
    keys = {"file": "d.jsonl", "split": f"SPLIT{split}", **more}
    written = json.dumps(keys).replace('"SPLIT', "").replace('}"', "}")
    (folder / "r.yaml").write_text(f'model: {{source: "tiny-random:llama"}}\ndata:\n  d: {written}\n', "utf-8")
    data, problems = load_data(load_recipe(folder / "r.yaml"))
    return {part: [one.text for one in rows] for part, rows in data["d"].items()}, problems


def test_all_rows_of_a_part_are_taken_in_their_order(tmp_path: Path) -> None:
    found, problems = loaded(tmp_path, "{by: part}", field="text")
    assert not problems
    assert found == {"train": [f"t{place}" for place in range(6)], "validation": ["v0"], "test": ["e0"]}


def test_sizes_are_drawn_among_the_rows_of_the_part(tmp_path: Path) -> None:
    draws = set()
    for seed in range(8):
        found, problems = loaded(tmp_path, "{by: part, train: 2, test: 1}", field="text", seed=seed)
        assert not problems and set(found) == {"train", "test"} and found["test"] == ["e0"]
        assert len(found["train"]) == 2 and set(found["train"]) <= {f"t{place}" for place in range(6)}
        draws.add(tuple(found["train"]))
    assert len(draws) > 1


@pytest.mark.parametrize("key", ["label", "id"])
def test_the_field_may_be_one_that_is_read_for_something_else(tmp_path: Path, key: str) -> None:
    found, problems = loaded(tmp_path, "{by: part, validation: 1}", field="text", **{key: "part"})
    assert not problems and found == {"validation": ["v0"]}


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("{by: part, train: 7}", "split asks for train 7; there are 6 whose 'part' is train."),
        ("{by: prat}", "Did you mean 'part'?"),
        ("{by: text}", "split goes by field 'text', which is train, validation or test in no row, but 't0', 't1'"),
    ],
)
def test_what_can_not_be_drawn_is_told(tmp_path: Path, split: str, message: str) -> None:
    _, (problem,) = loaded(tmp_path, split, field="text")
    assert message in problem.message and problem.where == "data.d" and problem.line == 3


def test_a_field_of_many_long_values_is_told_in_short(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"{place} {'long ' * 40}", "of": [place]}) for place in range(200)]
    (tmp_path / "d.jsonl").write_text("\n".join(rows), "utf-8")
    for by, first in (("text", "'0 long long"), ("of", "[0], [1], [2], [3], [4], ….")):
        recipe = (
            f'model: {{source: "tiny-random:llama"}}\ndata:\n  d: {{file: d.jsonl, field: text, split: {{by: {by}}}}}\n'
        )
        (tmp_path / "r.yaml").write_text(recipe, "utf-8")
        _, (problem,) = load_data(load_recipe(tmp_path / "r.yaml"))
        assert first in problem.message and problem.message.endswith(", ….") and len(problem.message) < 400


def test_a_field_that_is_no_name_is_one_mistake(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        loaded(tmp_path, "{by: 3}", field="text")
    (problem,) = caught.value.problems
    assert problem.where == "data.d.split.by" and "expected text, not 3" in problem.message


def test_a_file_that_is_not_there_says_where_it_comes_from(tmp_path: Path) -> None:
    text = 'model: {source: "tiny-random:llama"}\ndata:\n  d: {file: FILE, field: text, obtain: "Ask Ann for it."}\n'
    (tmp_path / "r.yaml").write_text(text.replace("FILE", "absent.jsonl"), "utf-8")
    draft = load_recipe(tmp_path / "r.yaml")
    _, (problem,) = load_data(draft)
    assert problem.message.startswith(f"there is no file {tmp_path / 'absent.jsonl'}.")
    assert problem.message.endswith(" Ask Ann for it.") and problem.line == 3
    (tmp_path / "broken.jsonl").write_text("{", "utf-8")
    (tmp_path / "r.yaml").write_text(text.replace("FILE", "broken.jsonl"), "utf-8")
    _, (problem,) = load_data(load_recipe(tmp_path / "r.yaml"))
    assert "row 1 is not JSON" in problem.message and "Ann" not in problem.message


def test_a_resolved_recipe_holds_them_where_they_are_written(tmp_path: Path) -> None:
    loaded(tmp_path, "{by: part}", field="text", obtain="Ask Ann.")
    data = read_document(load_recipe(tmp_path / "r.yaml").to_yaml()).value["data"]["d"]
    assert data["split"]["by"] == "part" and data["obtain"] == "Ask Ann."
    loaded(tmp_path, "{train: 2}", field="text")
    data = read_document(load_recipe(tmp_path / "r.yaml").to_yaml()).value["data"]["d"]
    assert "by" not in data["split"] and "obtain" not in data
