"""Profiles that nobody asked for: an inherited one that doesn't fit is told, and makes no recipe invalid."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from steerkit.catalog import Catalog
from steerkit.cli import main as cli
from steerkit.errors import RecipeError
from steerkit.plan import plan_recipe
from steerkit.plan.profiles import plan_profiles
from tests.plan.conftest import RECIPE

BASE = RECIPE + "profiles:\n  small: {control: {at: [0.5]}}\n  other: {seed: 4}\n"
OWN = "extends: base.yaml\nconditions: {dose: {sweep: {coefficient: [1, 2]}}}\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    path = tmp_path / "own.yaml"
    path.write_text(OWN)
    return path


def test_an_inherited_profile_that_does_not_fit_is_a_note_with_a_cure(
    recipe: Path, catalog: Catalog, capsys: pytest.CaptureFixture[str]
) -> None:
    plans, (note,) = plan_profiles(recipe, (), catalog, plan_recipe(recipe, (), catalog))
    assert plans.keys() == {"other"}
    assert note.startswith(
        "Profile 'small' doesn't fit this recipe. profiles.small.control.at.0: no condition sweeps over 0.5"
    )
    assert "write the keys that differ under profiles.small of your own" in note
    with pytest.raises((SystemExit, typer.Exit)) as left:
        cli.main(["check", str(recipe)])
    assert not (getattr(left.value, "code", None) or getattr(left.value, "exit_code", 0))
    assert "own is valid" in (told := capsys.readouterr().out) and "Note: Profile 'small' doesn't fit" in told
    with pytest.raises(
        RecipeError, match=r"base\.yaml, line \d+, profiles\.small.*take it away with profiles: {small: null}"
    ):
        plan_recipe(recipe, (), catalog, "small")


@pytest.mark.parametrize("mended", ["{small: null}", "{small: {control: {at: [2]}}}"])
def test_the_cures_that_are_told_are_cures(recipe: Path, catalog: Catalog, mended: str) -> None:
    recipe.write_text(f"{OWN}profiles: {mended}\n")
    plans, notes = plan_profiles(recipe, (), catalog, plan_recipe(recipe, (), catalog))
    assert notes == [] and "other" in plans and ("small" in plans) == ("null" not in mended)


def test_what_the_recipes_own_file_says_of_a_profile_is_checked(recipe: Path, catalog: Catalog) -> None:
    recipe.write_text(f"{OWN}profiles: {{small: {{control: {{at: [7]}}}}}}\n")
    with pytest.raises(RecipeError, match="no condition sweeps over 7\n") as caught:
        plan_profiles(recipe, (), catalog, plan_recipe(recipe, (), catalog))
    assert caught.value.problems[0].file == ""


def test_a_device_that_is_not_here_is_a_note(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    for there in (False, True):
        monkeypatch.setattr(torch.cuda, "device_count", lambda there=there: int(there))
        with pytest.raises((SystemExit, typer.Exit)):
            cli.main(["check", str(recipe), "--set", "model.device=cuda:0"])
        told = " ".join(capsys.readouterr().out.split())
        assert ("Note: model.device: This machine (or this build of torch) has no device cuda:0" in told) is not there
