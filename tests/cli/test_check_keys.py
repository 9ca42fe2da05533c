"""``steerkit check`` says which key a judge lacks here and now; the plan is the same with it and without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steerkit.catalog import Catalog
from steerkit.cli.main import main
from steerkit.plan import plan_recipe

RECIPE = """\
model: {source: "tiny-random:llama"}
data: {a: {inline: [one, two]}}
conditions: {asked: {system_prompt: Be warm.}}
evaluate:
  - judge: {name: first, data: a, max_new_tokens: 2, endpoint: "http://127.0.0.1:9/v1", model: m}
  - judge: {name: second, data: a, max_new_tokens: 2, endpoint: "http://127.0.0.1:9/v1", model: n}
  - judge: {name: third, data: a, max_new_tokens: 2, endpoint: "http://127.0.0.1:9/v1", model: m, key_variable: MINE}
"""
FIRST = "OPENAI_API_KEY is not set, so first, second ask without a key"
THIRD = "MINE is not set, so third asks without a key: set it before the run, unless what is asked needs none."


def check(folder: Path, *arguments: str) -> int:
    path = folder / "keys.yaml"
    path.write_text(RECIPE, "utf-8")
    with pytest.raises(SystemExit) as caught:
        main(["check", str(path), *arguments])
    return int(caught.value.code or 0)


@pytest.mark.parametrize(("own", "told"), [(None, True), ("  ", True), ("secret-words", False)])
def test_a_key_that_is_not_set_is_a_note_and_no_problem(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    own: str | None,
    told: bool,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("MINE", raising=False)
    if own is not None:
        monkeypatch.setenv("MINE", own)
    assert check(tmp_path) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"Note: {FIRST}" in out and (f"Note: {THIRD}" in out) is told
    assert check(tmp_path, "--json") == 0
    written = capsys.readouterr().out
    notes = json.loads(written)["notes"]
    assert any(note.startswith(FIRST) for note in notes) and (THIRD in notes) is told
    assert "secret-words" not in out + written


def test_the_plan_does_not_depend_on_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(RECIPE, "utf-8")
    monkeypatch.delenv("MINE", raising=False)
    without = plan_recipe(path, (), Catalog.discover())
    monkeypatch.setenv("MINE", "a key")
    assert plan_recipe(path, (), Catalog.discover()).to_json() == without.to_json()
    assert not any("is not set" in note for note in without.notes)
    assert [one.needs.key for one in without.evaluations] == ["OPENAI_API_KEY", "OPENAI_API_KEY", "MINE"]
