"""A run that has nothing to compute loads no weights; one that has something gives the bytes that it gave before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from steerkit import stages
from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from steerkit.errors import ModelError
from steerkit.executors import chosen
from steerkit.run import run_recipe
from steerkit.stages.model import load
from tests.small_run import RECIPE, STABLE, carried

MONITORED = RECIPE.replace("conditions:", "monitors:\n  warm: {direction: warmth, above: 0.5}\nconditions:")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    saved = tmp_path / "model"
    tiny_model("llama").save_pretrained(saved)
    tiny_tokenizer().save_pretrained(saved)
    return saved


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The plans whose model is loaded from now on."""
    found: list[Any] = []

    def counted(plan: Any) -> Any:
        found.append(plan)
        return load(plan)

    monkeypatch.setattr(chosen, "load", counted)
    return found


def written(tmp_path: Path, source: Path, text: str = MONITORED) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(text.replace("tiny-random:llama", str(source)))
    return path


def bytes_of(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in STABLE}


def test_a_second_run_loads_nothing_and_writes_the_same_bytes(folder: Path, tmp_path: Path, loads: list[Any]) -> None:
    recipe = written(tmp_path, folder)
    first = run_recipe(recipe, out=tmp_path / "runs")
    assert len(loads) == 1
    second = run_recipe(recipe, out=tmp_path / "runs")
    assert len(loads) == 1 and second != first
    assert bytes_of(second) == bytes_of(first)
    told = [json.loads((run / "provenance.json").read_text())["model"] for run in (first, second)]
    assert told[0] == told[1] and told[0]["source"] == str(folder)
    # A moved folder is the same model, under its new name.
    moved = folder.rename(tmp_path / "elsewhere")
    third = run_recipe(written(tmp_path, moved), out=tmp_path / "runs")
    assert len(loads) == 1
    assert json.loads((third / "provenance.json").read_text())["model"] == {**told[0], "source": str(moved)}


def test_what_has_to_be_computed_loads_it_once_and_is_what_it_is_alone(
    folder: Path, tmp_path: Path, loads: list[Any]
) -> None:
    recipe = written(tmp_path, folder)
    run_recipe(recipe, out=tmp_path / "runs")
    longer = ["conditions.warmer.0.add.coefficient=1.5"]
    extended = run_recipe(recipe, overrides=longer, out=tmp_path / "runs")
    assert len(loads) == 2
    alone = run_recipe(recipe, overrides=longer, out=tmp_path / "alone")
    assert bytes_of(extended) == bytes_of(alone)


def test_a_killed_run_goes_on_with_the_same_bytes(
    folder: Path, tmp_path: Path, loads: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = written(tmp_path, folder)
    whole = run_recipe(recipe, out=tmp_path / "whole")
    with monkeypatch.context() as patch:
        carried(patch, dies_at=4)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe, out=tmp_path / "runs")
    assert bytes_of(run_recipe(recipe, out=tmp_path / "runs")) == bytes_of(whole)
    assert len(loads) == 3


@pytest.mark.parametrize("changed", ["weights", "config", "tokenizer"])
def test_another_file_is_another_model(changed: str, folder: Path, tmp_path: Path, loads: list[Any]) -> None:
    recipe = written(tmp_path, folder)
    run_recipe(recipe, out=tmp_path / "runs")
    if changed == "weights":
        model = tiny_model("llama")
        with torch.no_grad():
            next(model.parameters()).add_(1.0)
        model.save_pretrained(folder)
    else:
        file = folder / ("config.json" if changed == "config" else "tokenizer_config.json")
        values = json.loads(file.read_text())
        values |= {"rms_norm_eps": 0.01} if changed == "config" else {"chat_template": "{{ messages[0].content }}!"}
        file.write_text(json.dumps(values))
    run_recipe(recipe, out=tmp_path / "runs")
    assert len(loads) == 2


def test_a_model_that_changes_meanwhile_is_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loads: list[Any]
) -> None:
    recipe = written(tmp_path, folder)
    run_recipe(recipe, out=tmp_path / "runs")
    own = stages.Bench.live

    def changing(bench: Any, use: Any) -> Any:
        if len(loads) == 1:
            model = tiny_model("llama")
            with torch.no_grad():
                next(model.parameters()).add_(1.0)
            model.save_pretrained(folder)
        return own(bench, use)

    monkeypatch.setattr(stages.Bench, "live", changing)
    with pytest.raises(ModelError, match="has changed since the run began"):
        run_recipe(recipe, overrides=["conditions.warmer.0.add.coefficient=1.5"], out=tmp_path / "runs")
