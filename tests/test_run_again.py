"""A run that was killed, extended or damaged: what is there is used, and nothing tells in the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steerkit.artifacts.rundir import STAGES
from steerkit.artifacts.store import STORE
from steerkit.run import run_recipe
from tests.small_run import RECIPE, STABLE, carried, runs_in


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return path


@pytest.mark.parametrize("dies_at", [2, 9])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    """Wherever the first try was stopped, what it did is not done again, and nothing tells in the end."""
    whole = run_recipe(recipe, out=tmp_path / "whole")
    with monkeypatch.context() as patch:
        before = carried(patch, dies_at)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe, out=tmp_path / "killed")
    (unfinished,) = runs_in(tmp_path / "killed")
    assert (unfinished / STAGES).is_dir() and not (unfinished / "results.json").exists()
    after = carried(monkeypatch)
    finished = run_recipe(recipe, out=tmp_path / "killed")
    assert finished == unfinished
    assert after and not {task.key for task in before} & {task.key for task in after}
    for name in STABLE:
        assert (finished / name).read_bytes() == (whole / name).read_bytes(), name
    assert run_recipe(recipe, out=tmp_path / "killed") != finished, "a finished run is left alone"


def test_a_run_that_is_killed_within_a_task_repeats_that_task(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steerkit.engine.measuring.evaluate import Evaluation

    whole = run_recipe(recipe, out=tmp_path / "whole")
    calls: list[int] = []
    original = Evaluation._sequence_scores

    def dies(self: Evaluation, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "_sequence_scores", dies)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe, out=tmp_path / "killed")
    finished = run_recipe(recipe, out=tmp_path / "killed")
    for name in STABLE:
        assert (finished / name).read_bytes() == (whole / name).read_bytes(), name


WARMER = "add: {direction: warmth, coefficient: 3.0}"


EXTENDED = [
    # What is changed, and the kinds of task and the condition that are then carried out.
    ("title: none\n", "title: Another heading\n", set()),
    ("coefficient: [-2, 2]", "coefficient: [3, -2, 2]", {"dose[coefficient=3]"}),
    ("random_directions: 2", "random_directions: 3", {"warmer", "without"}),
    ("  dose:", "  asked: {system_prompt: Be warm.}\n  dose:", {"asked"}),
    ("  dose:", f"  other: {{system_prompt: Be warm., interventions: [{WARMER}]}}\n  dose:", {"other"}),
    ("  dose:", f"  other: {{mode: fold, interventions: [{WARMER}]}}\n  dose:", {"other"}),
    ("  dose:", f"  other: {{mode: auto, interventions: [{WARMER}]}}\n  dose:", set()),
]


@pytest.mark.parametrize(("before", "after", "computed"), EXTENDED)
def test_a_run_that_is_extended_computes_what_is_new_and_has_the_bytes_of_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str, computed: set[str]
) -> None:
    text = RECIPE.replace("seed: 7\n", "seed: 7\ndescription: none\n").replace("report:\n", "report:\n  title: none\n")
    path = tmp_path / "small.yaml"
    assert before in text
    path.write_text(text)
    run_recipe(path, out=tmp_path / "runs")
    path.write_text(text.replace(before, after))
    with monkeypatch.context() as patch:
        done = carried(patch)
        extended = run_recipe(path, out=tmp_path / "runs")
    assert {task.title.split(" ")[1] for task in done} == computed
    whole = run_recipe(path, out=tmp_path / "whole")
    for name in STABLE:
        assert (extended / name).read_bytes() == (whole / name).read_bytes(), name


def test_an_evaluator_that_is_added_uses_the_completions_that_are_there(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_recipe(recipe, out=tmp_path / "runs")
    added = "  - refusal_rate: {name: again, data: cold.test, max_new_tokens: 3}\n"
    recipe.write_text(RECIPE.replace("control: {random", f"{added}control: {{random"))
    with monkeypatch.context() as patch:
        done = carried(patch)
        extended = run_recipe(recipe, out=tmp_path / "runs")
    assert {(task.kind, getattr(task.payload, "name", "")) for task in done} == {("scores", "again")}
    whole = run_recipe(recipe, out=tmp_path / "whole")
    for name in STABLE:
        assert (extended / name).read_bytes() == (whole / name).read_bytes(), name


def test_labels_that_are_added_leave_completions_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written depends on prompts alone; what is scored may depend on all that an example holds."""
    rows = [{"text": f"Say {n}", "topic": "even" if n % 2 == 0 else "odd"} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    text = """
model: {source: "tiny-random:llama", dtype: float32}
data: {a: {file: rows.jsonl, field: text, id: text}}
conditions: {asked: {system_prompt: Be warm.}}
evaluate: [refusal_rate: {data: a, max_new_tokens: 3}]
"""
    path = tmp_path / "small.yaml"
    path.write_text(text, "utf-8")
    run_recipe(path, out=tmp_path / "runs")
    path.write_text(text.replace("id: text", "id: text, label: topic"), "utf-8")
    done = carried(monkeypatch)
    run_recipe(path, out=tmp_path / "runs")
    assert {task.kind for task in done} == {"scores"} and len(done) == 2


def test_what_is_damaged_in_the_store_is_computed_again(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_recipe(recipe, out=tmp_path / "runs", store=tmp_path / "store")
    assert not (tmp_path / "runs" / STORE).exists()
    entries = sorted(path for path in (tmp_path / "store").rglob("*") if path.is_file())
    for entry in entries[::3]:
        content = bytearray(entry.read_bytes())
        content[-1] ^= 1
        entry.write_bytes(content)
    done = carried(monkeypatch)
    again = run_recipe(recipe, out=tmp_path / "runs", store=tmp_path / "store")
    assert done and len(done) <= len(entries[::3])
    for name in STABLE:
        assert (again / name).read_bytes() == (first / name).read_bytes(), name


def test_a_run_of_other_weights_is_not_continued(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same folder with other weights in it is another model, whatever the recipe says."""
    from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer

    folder = tmp_path / "model"
    model = tiny_model("llama")
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    source = [f"model.source={folder}"]
    with monkeypatch.context() as patch:
        carried(patch, dies_at=4)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe, out=tmp_path / "runs", overrides=source)
    (unfinished,) = runs_in(tmp_path / "runs")
    tiny_model("llama", seed=5).save_pretrained(folder)
    finished = run_recipe(recipe, out=tmp_path / "runs", overrides=source)
    assert finished != unfinished
    fresh = run_recipe(recipe, out=tmp_path / "fresh", overrides=source)
    assert (finished / "results.json").read_bytes() == (fresh / "results.json").read_bytes()
