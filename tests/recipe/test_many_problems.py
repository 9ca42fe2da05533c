"""Recipes with thousands of mistakes: checked in a time that grows with their number, and told in a readable way."""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from steerkit import errors
from steerkit.catalog import Catalog
from steerkit.errors import MOST_TOLD, Problem, RecipeError, nearest
from steerkit.plan import plan_recipe

RECIPE = """\
name: many
model: {source: "tiny-random:llama"MODEL}
data: {probe: {inline: [one, two]}, a: {inline: [x, y]}, b: {inline: [z, w]}DATA}
directions: {warmth: {estimator: mean_difference, positive: a, negative: b, site: blocks.1.resid_pre}DIRECTIONS}
conditions: {add: [{add: {direction: warmth, coefficient: 1OPTIONS}}]CONDITIONS}
evaluate: [{degeneration: {data: probe, max_new_tokens: 8}}EVALUATE]
"""
MANY = {
    "MODEL": ", key_{}: 1",
    "DATA": ", d{}: {{file: nothing.txt}}",
    "DIRECTIONS": ", d{}: {{estimator: mean_difference}}",
    "OPTIONS": ", key_{}: 1",
    "CONDITIONS": ", c{}: [{{add: {{direction: nothing}}}}]",
    "EVALUATE": ", {{degeneration: {{dat: probe{}}}}}",
    "END": "key_{}: 1\n",
}


def problems(folder: Path, place: str, count: int) -> tuple[RecipeError, float]:
    text = RECIPE + "END"
    for name, one in MANY.items():
        text = text.replace(name, "".join(one.format(number) for number in range(count)) if name == place else "")
    (folder / "many.yaml").write_text(text, "utf-8")
    began = time.process_time()
    with pytest.raises(RecipeError) as caught:
        plan_recipe(folder / "many.yaml", (), Catalog.discover())
    return caught.value, time.process_time() - began


@pytest.mark.parametrize("place", MANY)
def test_the_time_grows_with_the_number_of_mistakes(tmp_path: Path, place: str) -> None:
    """Ten times as many take ten times as long, not a hundred times."""
    problems(tmp_path, place, 10)
    few, short = problems(tmp_path, place, 200)
    many, long = problems(tmp_path, place, 2000)
    assert len(many.problems) == 10 * len(few.problems) >= 2000
    assert long < 30 * max(short, 0.05)


def test_a_name_is_compared_with_few_of_very_many(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def counting(word: str, names: Sequence[str], **options: Any) -> list[str]:
        compared.append(len(names))
        return difflib.get_close_matches(word, names, **options)

    monkeypatch.setattr(errors, "difflib", SimpleNamespace(get_close_matches=counting))
    known = [f"direction{number}" for number in range(5000)]
    for written in ("direction49x99", "direction4999x", "dixection4999"):
        told = nearest(written, known)
        assert "'direction4999'" in told.partition("?")[0] and told.endswith(" and 4,900 more.")
    assert max(compared) <= 40


def test_of_very_many_columns_the_first_are_named(tmp_path: Path) -> None:
    names = [f"column{number}" for number in range(20_000)]
    (tmp_path / "wide.csv").write_text("\n".join((",".join(names), ",".join("x" * len(names)))), "utf-8")
    (tmp_path / "many.yaml").write_text(
        "model: {source: 'tiny-random:llama'}\ndata: {probe: {file: wide.csv}}\n"
        "evaluate: [{degeneration: {data: probe, max_new_tokens: 8}}]\n",
        "utf-8",
    )
    with pytest.raises(RecipeError, match=r"Set `field` to one of column0, column1, .* and 19,900 more\.") as caught:
        plan_recipe(tmp_path / "many.yaml", (), Catalog.discover())
    assert len(str(caught.value)) < 2000


def test_twenty_thousand_unknown_keys(tmp_path: Path) -> None:
    error, seconds = problems(tmp_path, "END", 20_000)
    assert len(error.problems) == 20_000 and seconds < 20
    lines = str(error).splitlines()
    assert lines[0].endswith("20,000 problems") and len(lines) == MOST_TOLD + 3
    assert lines[-2:] == ["  and 19,900 more", "Nothing was run."]


def test_a_hundred_problems_are_told_whole() -> None:
    error = RecipeError([Problem(f"mistake {n}") for n in range(MOST_TOLD)])
    assert "more" not in str(error) and f"mistake {MOST_TOLD - 1}" in str(error)


@pytest.mark.parametrize("name", ["recipe.yaml", "base.yaml", "template.jinja", "d.safetensors", "rows.jsonl"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    text = RECIPE
    for key in MANY:
        text = text.replace(key, "")
    text = {
        "base.yaml": "extends: base.yaml\n" + text,
        "template.jinja": text.replace('llama"}', 'llama", chat_template: {file: template.jinja}}'),
        "d.safetensors": text.replace("directions: {", "directions: {saved: {file: d.safetensors}, "),
        "rows.jsonl": text.replace("probe: {inline: [one, two]}", "probe: {file: rows.jsonl}"),
    }.get(name, text)
    (tmp_path / "recipe.yaml").write_text(text, "utf-8")
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(RecipeError, match=r"pipe|no file"):
        plan_recipe(tmp_path / "recipe.yaml", (), Catalog.discover())
