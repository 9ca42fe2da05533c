"""A recipe with every section that there is: it runs, and each of its conditions that folds is baked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import steerkit
from steerkit.baking import bake
from steerkit.baking.asked import read_asked
from steerkit.errors import AttachError
from steerkit.recipe.document import read_document
from steerkit.recipe.schema import Recipe
from steerkit.run import run_recipe
from tests.full_recipe import FOLDING, write_full_recipe
from tests.small_run import results_of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("everything")
    return run_recipe(write_full_recipe(folder), profile="small", out=folder / "runs")


def test_every_section_is_in_it_and_leads_to_results(run: Path) -> None:
    written = read_document((run / "recipe.yaml").read_text("utf-8")).value
    assert isinstance(written, dict) and set(Recipe.model_fields) == set(written)
    results = results_of(run)
    assert all(results[part] for part in ("filters", "tokens", "searches", "completions", "monitors", "suffixes"))
    chosen = {one["name"]: one["candidates"][one["chosen"]] for one in results["searches"]}
    assert chosen["taken"]["coefficient"] in (0.5, -4, 3) and chosen.keys() == {"taken", "alike", "found"}


def test_what_folds_is_baked_and_is_the_condition(run: Path, tmp_path: Path) -> None:
    """With the site and the coefficient that a search chose, each rank of a sweep, and their controls."""
    ids = torch.randint(6, 262, (3, 11), generator=torch.Generator().manual_seed(1))
    names = [one["name"] for one in results_of(run)["conditions"]]
    folding = [name for name in names if name.partition("/")[0] in FOLDING]
    assert {name.partition("/")[0] for name in folding} == set(FOLDING) and "chosen/random-1" in folding
    live = steerkit.load_model(read_asked(run, "chosen").plan.loading.source, dtype="float32")
    with torch.no_grad():
        plain = live.forward(ids).logits
        for place, name in enumerate(folding):
            baked = bake(run, name, tmp_path / str(place))
            assert baked.largest_difference < 1e-5, name
            with live.steer(*read_asked(run, name).condition.placements, mode="interpret"):
                wanted = live.forward(ids).logits
            assert (wanted - plain).abs().max() > 1e-2, f"{name} does nothing"
            found = AutoModelForCausalLM.from_pretrained(baked.folder, dtype=torch.float32)(ids).logits
            assert (found - wanted).abs().max() < 1e-5, name


def test_what_does_not_fold_is_refused_by_name_and_leaves_nothing(run: Path, tmp_path: Path) -> None:
    names = [one["name"] for one in results_of(run)["conditions"]]
    kept = [name for name in names if name.partition("/")[0] not in FOLDING]
    assert set(kept) == {"baseline", "gated", "fading", "edited", "set", "prompted", "both", "dose[coefficient=0]"}
    for name in kept:
        with pytest.raises(AttachError) as caught:
            bake(run, name, tmp_path / "out")
        assert f"Condition {name} " in str(caught.value) and caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []
