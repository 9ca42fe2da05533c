"""Places of a pattern at which there is no direction are counted and explained: by a run, and in Python."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

import steerkit
from steerkit.report import write_report
from steerkit.run import run_recipe
from tests.conftest import tiny_live
from tests.small_run import results_of
from tests.test_run_select import RECIPE

WHY = "mean_difference: the two classes have exactly the same mean at blocks.0.resid_pre, so there is no direction"


def test_candidates_that_there_are_not_are_told_in_results_log_and_report(tmp_path: Path) -> None:
    """The tokens behind the instruction are the same in every prompt, and nothing was read before the first block."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.replace("blocks.*.resid_post", "blocks.*.resid_pre"))
    run = run_recipe(recipe, out=tmp_path / "runs")
    (search,) = results_of(run)["searches"]
    assert len(search["candidates"]) == 4 and all(one["layer"] for one in search["candidates"])
    told = f"at 2 of 6 places there is no direction, blocks.0.resid_pre (-2, -1): {WHY} between them"
    assert search["notes"][0] == f"of found, {told}"
    assert f"candidates of found: {told}" in (run / "run.log").read_text("utf-8")
    page = write_report(run).read_text("utf-8").replace("<wbr>", "")
    assert f"Of found, {told}." in page
    whole = tmp_path / "whole.yaml"
    whole.write_text(RECIPE)
    (search,) = results_of(run_recipe(whole, out=tmp_path / "runs"))["searches"]
    assert not any("no direction" in note for note in search.get("notes", ()))


def test_python_is_told_as_well() -> None:
    live, warm, cold = tiny_live("llama"), ["sun one", "sun two"], ["ice one", "ice two"]
    with pytest.warns(UserWarning) as caught:
        found = steerkit.estimate_direction(live, warm, cold, site="blocks.*.resid_pre", name="warmth")
    assert len(found.sites) == 2
    (told,) = [str(one.message) for one in caught]
    assert told.startswith(
        f"Of direction 'warmth', at 1 of 3 places there is no direction, blocks.0.resid_pre (-1): {WHY}"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steerkit.estimate_direction(live, warm, cold, site="blocks.*.resid_post")
