"""Every shipped recipe is valid, and every small one runs to a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steerkit.catalog import Catalog
from steerkit.plan import make_plan
from steerkit.recipe import load_recipe, shipped_recipes
from steerkit.report import write_report
from steerkit.run import run_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
ALL = sorted(RECIPES.rglob("*.yaml"))
SMALL = [path for path in ALL if path.parent.name == "families"]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_it_is_valid(path: Path) -> None:
    plan = make_plan(load_recipe(path, ()), Catalog.discover())
    assert plan.report.description, "a reader of the report is told what was asked"
    assert plan.random_directions >= 1 or path in SMALL


def test_every_family_has_one() -> None:
    adapters = set()
    for path in SMALL:
        source = load_recipe(path).recipe.model.source
        adapters.add(source.removeprefix("tiny-random:"))
    for family in ("llama", "yi", "qwen", "gemma"):
        assert any(name.startswith(family) for name in adapters), family


def test_shipped_recipes_are_found_by_name() -> None:
    assert {"quickstart", "refusal_minimal"} <= set(shipped_recipes())


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_a_small_one_runs_to_a_report(path: Path, tmp_path: Path) -> None:
    run = run_recipe(path, out=tmp_path)
    results = json.loads((run / "results.json").read_text())
    kinds = {condition["kind"] for condition in results["conditions"]}
    assert kinds == {"baseline", "intervention", "control"}
    assert all(record["value"] is not None for record in results["records"])
    assert write_report(run).stat().st_size > 10_000
    again = load_recipe(run / "recipe.yaml", ())
    assert make_plan(again, Catalog.discover()).hash == json.loads((run / "plan.json").read_text())["hash"]
