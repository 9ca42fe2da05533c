"""A pipe where a file belongs: it would be waited for without an end, so every door refuses it at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from steerkit.api.direction import Direction
from steerkit.artifacts.directions import load_directions
from steerkit.catalog import installed
from steerkit.engine.loading.load import load
from steerkit.errors import SteerkitError
from steerkit.plan.files import directions_fault
from steerkit.plan.model import model_folder
from steerkit.recipe.load import draft_recipe, load_recipe
from steerkit.selection import PRESETS, read_table

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes"),
    pytest.mark.timeout(60),
]

DOORS: dict[str, Callable[[Path], object]] = {
    "a recipe": draft_recipe,
    "what a recipe extends": lambda pipe: load_recipe(extending(pipe)),
    "directions": load_directions,
    "directions of a format": lambda pipe: load_directions(pipe, format="steerkit"),
    "one direction": Direction.load,
    "scores": lambda pipe: read_table(pipe, next(iter(PRESETS.values()))),
    "a model that is loaded": load,
    "a model that is planned with": lambda pipe: model_folder(str(pipe), None),
}


def extending(pipe: Path) -> Path:
    recipe = pipe.with_name("recipe.yaml")
    recipe.write_text(f"extends: {pipe.name}\n", "utf-8")
    return recipe


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_a_pipe_is_refused(tmp_path: Path, door: Callable[[Path], object]) -> None:
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)
    with pytest.raises(SteerkitError, match=r"is a pipe or a device, not a file|is no file that can be read"):
        door(pipe)


def test_a_pipe_of_directions_is_a_problem_of_the_recipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    ours = installed().get("format", "steerkit")
    fault = directions_fault(tmp_path / "pipe", ours, ours.options(), "warmth", named=False)
    assert fault == f"{tmp_path / 'pipe'} is a pipe or a device, not a file: save what comes from it, and name that"
