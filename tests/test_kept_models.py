"""What is kept belongs to weights, wherever they lie: another folder computes nothing again."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from steerkit.artifacts.directions import load_directions, save_directions
from steerkit.engine.loading.configs import config_values
from steerkit.engine.sites.selftest_memory import key_of
from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from steerkit.run import run_recipe
from tests.conftest import tiny_live
from tests.small_run import RECIPE, carried, results_of


def test_the_same_weights_in_another_folder_compute_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / "here" / "model", tmp_path / "there" / "copy"]
    tiny_model("llama").save_pretrained(folders[0])
    tiny_tokenizer().save_pretrained(folders[0])
    shutil.copytree(folders[0], folders[1])
    recipes = []
    for folder in folders:
        recipes.append(folder.parent / "small.yaml")
        recipes[-1].write_text(RECIPE.replace("tiny-random:llama", str(folder)))
    first = run_recipe(recipes[0], out=tmp_path / "runs", store=tmp_path / "store")
    done = carried(monkeypatch)
    second = run_recipe(recipes[1], out=tmp_path / "runs", store=tmp_path / "store")
    assert not done, [task.title for task in done]
    for run, folder in zip((first, second), folders, strict=True):
        (direction,) = load_directions(run / "directions.safetensors").values()
        assert direction.provenance["model"] == str(folder)
        assert json.loads((run / "provenance.json").read_text())["model"]["source"] == str(folder)
    assert results_of(first)["records"] == results_of(second)["records"]
    # A store of its own gives the same file, so that nothing tells what was kept.
    alone = run_recipe(recipes[1], out=tmp_path / "alone")
    assert done
    assert (alone / "directions.safetensors").read_bytes() == (second / "directions.safetensors").read_bytes()


def test_a_saved_direction_counts_by_what_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_recipe(_written(tmp_path / "made.yaml", RECIPE), out=tmp_path / "runs")
    (made,) = load_directions(first / "directions.safetensors").values()
    text = re.sub(r"  warmth: \{estimator.*", "  warmth: {file: saved.safetensors}", RECIPE)
    runs = []
    for source in ("one", "another"):
        save_directions(tmp_path / "saved.safetensors", [made.replace(provenance={"model": source})])
        with monkeypatch.context() as patch:
            done = carried(patch)
            runs.append(run_recipe(_written(tmp_path / "read.yaml", text), out=tmp_path / "runs"))
        assert bool(done) == (source == "one")
        (direction,) = load_directions(runs[-1] / "directions.safetensors").values()
        assert direction.provenance["model"] == source


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_config_counts_by_all_but_where_it_was_loaded_from() -> None:
    config = tiny_model("gemma3").config
    before = config_values(config)
    config._name_or_path = config.text_config._name_or_path = "/some/where"
    assert config_values(config) == before and before["text_config"]["hidden_size"] == 32
    config.text_config.rms_norm_eps = 0.5
    assert config_values(config) != before


def test_a_self_test_is_remembered_for_the_same_weights_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    live = tiny_live("llama")
    key = key_of(live.model, live.layout, "sha256:a")
    monkeypatch.setattr(live.model.config, "_name_or_path", "/some/where")
    assert key_of(live.model, live.layout, "sha256:a") == key
