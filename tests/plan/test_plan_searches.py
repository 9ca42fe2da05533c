"""Beside which values of a sweep controls stand."""

from __future__ import annotations

import pytest

from steerkit.catalog import Catalog
from steerkit.errors import RecipeError
from steerkit.plan import plan_recipe


@pytest.mark.parametrize(
    ("at", "controls"), [("all", [5, 5, 5, 5]), ("extremes", [5, 0, 0, 5]), ("[1, -2]", [5, 0, 5, 0])]
)
def test_controls_stand_beside_the_values_that_are_asked_for(at: str, controls: list[int]) -> None:
    plan = plan_recipe("quickstart", [f"control.at={at}"], Catalog.discover())
    assert [one.n_controls(plan.random_directions) for one in plan.conditions] == controls


@pytest.mark.parametrize(
    ("at", "message"), [("[3]", "no condition sweeps over 3"), ("[]", "at least 1 item"), ("often", "extremes")]
)
def test_values_that_no_sweep_has_are_told(at: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        plan_recipe("quickstart", [f"control.at={at}"], Catalog.discover())
