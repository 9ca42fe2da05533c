"""Whole recipes whose model lies on the CPU and on disk: the numbers of one place, under keys of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import steerkit
from steerkit import stages
from steerkit.catalog import Catalog
from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from steerkit.errors import AttachError
from steerkit.executors import chosen
from steerkit.plan import plan_recipe
from steerkit.report import write_report
from steerkit.run import run_recipe
from steerkit.stages.model import load, load_use
from tests.small_run import RECIPE, results_of
from tests.test_run_search import RECIPE as SEARCH

DISK = 'model.device_map={"": cpu, model.layers.1: disk, lm_head: disk}'
OTHER = 'model.device_map={"": disk}'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    saved = tmp_path_factory.mktemp("placed") / "model"
    tiny_model("llama").save_pretrained(saved)
    tiny_tokenizer().save_pretrained(saved)
    return saved


@pytest.fixture(scope="module")
def runs(folder: Path) -> dict[str, Path]:
    """One recipe in one place and in two, with one store."""
    recipe = written(folder, RECIPE)
    out = folder.parent / "runs"
    return {name: run_recipe(recipe, overrides=more, out=out) for name, more in {"one": (), "two": (DISK,)}.items()}


def written(folder: Path, text: str) -> Path:
    path = folder.parent / "r.yaml"
    path.write_text(text.replace("tiny-random:llama", str(folder)), "utf-8")
    return path


def values(run: Path) -> dict[str, float]:
    return {f"{one['condition']} {one['evaluator']} {one['data']}": one["value"] for one in results_of(run)["records"]}


def test_a_whole_recipe_measures_the_same(runs: dict[str, Path]) -> None:
    # What isn't in memory folds into no weights, so that sums round otherwise; nothing else differs.
    assert values(runs["two"]) == pytest.approx(values(runs["one"]), abs=1e-5, rel=1e-6)
    plain, placed = (results_of(run) for run in runs.values())
    assert {key for key in plain if plain[key] != placed[key]} <= {"model", "records"}


def test_where_it_lay_is_part_of_what_is_kept_and_told(runs: dict[str, Path]) -> None:
    told = [json.loads((run / "provenance.json").read_text())["model"] for run in runs.values()]
    assert "device_map" not in told[0]
    assert told[1]["device_map"]["model.layers.1"] == "disk" and told[1]["device_map"]["model.layers.2"] == "cpu"
    assert told[1]["placement_packages"].keys() == {"accelerate"}
    assert results_of(runs["two"])["model"]["device_map"] == told[1]["device_map"]
    for run in runs.values():
        write_report(run)
    sentence = "Its weights lay in several places: 5 modules on cpu and 2 on disk."
    assert sentence in (runs["two"] / "report.html").read_text("utf-8")
    assert "several places" not in (runs["one"] / "report.html").read_text("utf-8")


def test_a_search_chooses_the_same_by_the_same_scores(folder: Path, tmp_path: Path) -> None:
    recipe = written(folder, SEARCH)
    found = [results_of(run_recipe(recipe, overrides=more, out=tmp_path))["searches"][0] for more in ((), (OTHER,))]
    assert found[0]["chosen"] == found[1]["chosen"]
    for one, other in zip(found[0]["candidates"], found[1]["candidates"], strict=True):
        assert other["scores"] == pytest.approx(one["scores"], abs=1e-3)
    # Passes begin at a layer, and prompts share their beginning, off a disk as in memory.
    assert found[0]["notes"] == found[1]["notes"]


def test_a_placement_is_known_by_its_own_key_and_carried_out_as_it_was_planned(folder: Path) -> None:
    recipe, keys = written(folder, RECIPE), []
    for more in ((), (DISK,), (OTHER,), (OTHER, f"model.offload_folder={folder.parent / 'kept'}")):
        plan = plan_recipe(recipe, more, Catalog.discover())
        use = stages.model_use(plan, load(plan))
        again = load_use(use)
        assert stages.model_use(plan, again).key == use.key
        keys.append(use.key)
    assert len(set(keys)) == 3 and keys[2] == keys[3]


def test_a_strategy_is_a_map_once_it_is_loaded(folder: Path) -> None:
    plan = plan_recipe(written(folder, RECIPE), ("model.device_map=auto",), Catalog.discover())
    use = stages.model_use(plan, load(plan))
    # All of it fits the memory here, which is one place: a worker is told the device, and no strategy to try anew.
    assert use.loading.placement.device_map is None and use.loading.device == "cpu"
    assert use.key == stages.model_use(plan_recipe(written(folder, RECIPE), (), Catalog.discover()), load(plan)).key


def test_what_an_earlier_load_found_is_taken_for_no_other_placement(
    folder: Path, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Any] = []

    def counted(plan: Any) -> Any:
        loads.append(plan)
        return load(plan)

    monkeypatch.setattr(chosen, "load", counted)
    recipe, out = written(folder, RECIPE), folder.parent / "runs"
    again = run_recipe(recipe, overrides=(DISK,), out=out)
    assert not loads and (again / "results.json").read_bytes() == (runs["two"] / "results.json").read_bytes()
    run_recipe(recipe, overrides=(OTHER, "evaluate=[{kl_divergence: {data: cold.test}}]"), out=out)
    assert len(loads) == 1


def test_it_is_not_baked(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(AttachError, match=r"lay in several places \(5 modules on cpu and 2 on disk\)"):
        steerkit.bake(runs["two"], "without", tmp_path / "baked")
    assert not (tmp_path / "baked").exists()


def test_a_model_in_python_says_where_it_lies() -> None:
    live = steerkit.load_model("tiny-random:llama", device_map={"": "cpu", "lm_head": "disk"})
    assert "float32, 1 module on cpu and 1 on disk" in repr(live)
    with pytest.raises(steerkit.SteerkitError, match="remove device, or device_map"):
        steerkit.load_model("tiny-random:llama", device_map="auto", device="cpu")
