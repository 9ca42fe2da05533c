"""Suffixes from a file: the same texts, the same hash, and mistakes told as those of other files are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steerkit.recipe.document import read_document
from tests.plan.conftest import RECIPE, Planner, Problems

TEXTS = (" wuz bim", "!?", "!? ", " WUZ bim")
LISTED = RECIPE + (
    "suffixes:\n"
    "  nonsense:\n"
    "    direction: warmth\n"
    "    prompts: probe.test\n"
    '    suffixes: [" wuz bim", "!?", "!? ", " WUZ bim"]\n'
)
FILED = LISTED[: LISTED.index('[" wuz')] + "{file: s.jsonl, field: text, where: {of: mine}}\n"
LINE = FILED.splitlines().index("    suffixes: {file: s.jsonl, field: text, where: {of: mine}}") + 1


def rows(folder: Path, *texts: str) -> None:
    lines = [json.dumps({"text": text, "of": "mine"}) for text in texts] + ['{"text": "x", "of": "another"}']
    (folder / "s.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


def test_a_file_gives_its_texts_to_the_letter(plan: Planner, tmp_path: Path) -> None:
    rows(tmp_path, *TEXTS)
    listed, filed = plan(LISTED), plan(FILED)
    assert filed.suffixes[0].suffixes == TEXTS
    assert filed.suffixes == listed.suffixes and filed.hash == listed.hash and filed.cost == listed.cost
    (tmp_path / "s.txt").write_text("\n".join(TEXTS) + "\n", "utf-8")
    assert plan(LISTED.replace(LISTED[LISTED.index('[" wuz') :], "{file: s.txt}\n")).suffixes == listed.suffixes


def test_the_hash_is_over_what_the_file_holds_and_the_resolved_recipe_names_it(plan: Planner, tmp_path: Path) -> None:
    rows(tmp_path, *TEXTS)
    first = plan(FILED)
    resolved = read_document(first.report.recipe).value["suffixes"]["nonsense"]
    assert resolved["suffixes"]["file"] == str(tmp_path / "s.jsonl") and "suffixes_file" not in resolved
    assert plan(first.report.recipe).hash == first.hash
    (tmp_path / "t.jsonl").write_bytes((tmp_path / "s.jsonl").read_bytes())
    assert plan(FILED.replace("s.jsonl", "t.jsonl")).hash == first.hash
    rows(tmp_path, *TEXTS[:-1], " WUZ bam")
    assert plan(FILED).hash != first.hash


@pytest.mark.parametrize(
    ("before", "after", "where", "message"),
    [
        ("file: s.jsonl", "file: t.jsonl", "file", "there is no file"),
        ("file: s.jsonl", "file: s.toml", "file", "unknown ending"),
        ("field: text", "field: txet", "file", "Did you mean 'text'?"),
        ("field: text", "feild: text", "feild", "Did you mean 'field' or"),
        ("where: {of: mine}", "where: {of: yours}", "file", "no row is picked"),
        ("file: s.jsonl, ", "", "", "required: path"),
        ("file: s.jsonl", "file: 3", "file", "expected text, not 3"),
        ("{file: s.jsonl, field: text, where: {of: mine}}", "s.jsonl", "", "expected a list"),
        ("    suffixes: {file: s.jsonl, field: text, where: {of: mine}}\n", "", None, "required: texts that are put"),
        ("suffixes: {file: s", "suffixes_file: {file: s", None, "expected `suffixes`"),
    ],
)
def test_mistakes_are_told_once_at_their_key(
    problems: Problems, tmp_path: Path, before: str, after: str, where: str | None, message: str
) -> None:
    rows(tmp_path, *TEXTS)
    assert before in FILED
    ((line, at, told),) = problems(FILED.replace(before, after))
    assert message in told
    if where is not None:
        assert line == LINE and at.startswith("suffixes.nonsense.suffixes") and where in at


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ((" a", "  "), "s.jsonl, row 2 is empty"),
        ((" a", " b", " a"), "s.jsonl, row 3 repeats row 1 (' a')"),
        (("\ud800",), "row 1"),
    ],
)
def test_what_is_wrong_with_a_row_names_it(
    problems: Problems, tmp_path: Path, texts: tuple[str, ...], message: str
) -> None:
    rows(tmp_path, *texts)
    ((line, at, told),) = problems(FILED)
    assert (line, at) == (LINE, "suffixes.nonsense.suffixes.file") and message in told


def test_repeats_can_be_dropped(plan: Planner, tmp_path: Path) -> None:
    rows(tmp_path, " a", " b", " a")
    assert plan(FILED.replace("field: text", "field: text, duplicates: drop")).suffixes[0].suffixes == (" a", " b")


def test_a_file_of_another_recipe_stays_beside_that_one(plan: Planner, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    rows(tmp_path / "base", *TEXTS)
    (tmp_path / "base" / "base.yaml").write_text(FILED, "utf-8")
    assert plan("name: above\nextends: base/base.yaml\n").suffixes[0].suffixes == TEXTS
    listed = "name: above\nextends: base/base.yaml\nsuffixes: {nonsense: {suffixes: [x]}}\n"
    assert plan(listed).suffixes[0].suffixes == ("x",)
