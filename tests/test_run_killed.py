"""A run that is killed at drawn moments and started again, by a system that gives it no time to clean up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from steerkit.artifacts.rundir import LOG, STAGES
from tests.baking.common import PLAIN, saved_model
from tests.full_recipe import write_full_recipe
from tests.small_run import RECIPE, runs_in

TIMES = {"timings.json", LOG}
"""What a run says of when and how long, which is no part of its results."""


def killed(recipe: Path, kills: int, ends: int, *profile: str) -> tuple[Path, list[Path]]:
    """The run that nothing disturbed, and those that were killed, beside the recipe. See ``tests.dying``."""
    folder = recipe.parent
    command = [sys.executable, "-m", "tests.dying", str(recipe), str(folder), str(kills), str(ends), "17", *profile]
    root, environment = Path(__file__).parents[1], {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    codes = json.loads((folder / "codes.json").read_text())
    # At the very end a run that goes on makes fewer changes than one that begins, so some of these kills come too late.
    assert codes[: kills + 2] == [0, *[-signal.SIGKILL] * kills, 0], done.stderr
    assert set(codes) == {0, -signal.SIGKILL} and codes.count(-signal.SIGKILL) >= kills + ends // 2, done.stderr
    (whole,) = runs_in(folder / "whole")
    return whole, runs_in(folder / "killed")


def bytes_of(run: Path) -> dict[str, bytes]:
    files = [path for path in run.rglob("*") if path.is_file() and path.name not in TIMES]
    return {str(path.relative_to(run)): path.read_bytes() for path in files if path.name != ".lock"}


def require_same(whole: Path, others: list[Path], *names: str) -> None:
    """Every file of every run but those of times, and nothing that is half of one."""
    wanted = bytes_of(whole)
    expected = {"results.json", "samples.jsonl", "directions.safetensors", "plan.json", "recipe.yaml", *names}
    assert expected <= wanted.keys()
    for run in others:
        found = bytes_of(run)
        assert {name for name in {*wanted, *found} if wanted.get(name) != found.get(name)} == set()
        assert not (run / STAGES / "digest").exists()
        assert not list(run.rglob("*.tmp"))


@pytest.mark.parametrize("kills", [3, pytest.param(6, marks=pytest.mark.slow)])
def test_a_small_recipe_that_is_killed_anywhere_ends_with_the_same_bytes(tmp_path: Path, kills: int) -> None:
    source = saved_model(tmp_path / "model", "llama", **PLAIN)
    (tmp_path / "small.yaml").write_text(RECIPE.replace("tiny-random:llama", source), "utf-8")
    require_same(*killed(tmp_path / "small.yaml", kills, 2))


@pytest.mark.slow
def test_a_recipe_with_every_section_that_is_killed_anywhere_ends_with_the_same_bytes(tmp_path: Path) -> None:
    runs = killed(write_full_recipe(tmp_path), 8, 6, "small")
    searched = [f"candidates-{name}.json" for name in ("taken", "alike", "found")]
    require_same(*runs, "completions-said.jsonl", "completions-plain_said.jsonl", *searched)
