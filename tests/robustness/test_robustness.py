"""Damaged inputs of every kind: none ends in a traceback, none hangs, none leaves half a file.

A few of each here, many in ``make test-slow``; ``python -m benchmarks.robustness`` keeps the figures of more.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from benchmarks.robustness import attempts
from benchmarks.robustness.__main__ import SECONDS, expected
from benchmarks.robustness.attempts import Tally, attempt, call, command
from benchmarks.robustness.kinds import KINDS
from benchmarks.robustness.whole import RECIPE
from steerkit.errors import DataError

FEW = {"recipes": 15, "data": 15, "directions": 20, "models": 8, "runs": 3}
MANY = {"recipes": 600, "data": 600, "directions": 600, "models": 150, "runs": 60}


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_damaged_inputs(tmp_path: Path, kind: str) -> None:
    far: list[tuple[int, int]] = []
    tally = KINDS[kind](FEW[kind], 1, tmp_path, lambda done, of: far.append((done, of)))
    assert tally.faults == [] and far == [(done, FEW[kind]) for done in range(FEW[kind] + 1)]
    assert tally.inputs == FEW[kind] and tally.refused > 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_inputs(tmp_path: Path, kind: str) -> None:
    tally = KINDS[kind](MANY[kind], 2, tmp_path)
    assert tally.faults == []
    assert tally.refused > MANY[kind] / 10


def test_the_whole_recipe_that_is_damaged_is_whole(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE, "utf-8")
    assert command("check", tmp_path / "recipe.yaml") == (0, "")


def test_whatever_is_looked_for_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each assertion of the fuzzers, on something that breaks it."""
    monkeypatch.setattr(attempts, "LIMIT", 0.2)

    def half() -> tuple[int, str]:
        (tmp_path / "report.html.1234.tmp").touch()
        return 0, ""

    def raises() -> tuple[int, str]:
        raise IndexError("list index out of range")

    def hangs() -> tuple[int, str]:
        time.sleep(20)
        return 0, ""

    def refuses() -> None:
        raise DataError("No such thing.")

    broken = {
        "IndexError: list index out of range": raises,
        "takes more than 0.2 s": hangs,
        "exit code 1": lambda: (1, "Traceback"),
        "exit code 2 without a sentence": lambda: (2, " \n"),
        "left report.html.1234.tmp": half,
    }
    tally = Tally("none", 0)
    for what, door in broken.items():
        attempt(tally, "input", door, tmp_path, may_write=True)
        assert what in tally.faults[-1]
    attempt(tally, "input", lambda: call(refuses), tmp_path)
    assert len(tally.faults) == len(broken) and tally.refused == 1


def test_how_long_it_takes_is_told_by_the_figures_that_are_kept() -> None:
    kept = {"recipes": {"seconds": 50.0, "inputs": 200}}
    assert expected({"recipes": 20, "data": 10}, kept) == 20 * 0.25 + 10 * SECONDS


def test_the_figures_that_are_kept_are_of_every_kind_and_have_no_fault() -> None:
    kept = json.loads((Path(__file__).parents[2] / "benchmarks/results/robustness.json").read_text())
    assert list(kept["kinds"]) == list(KINDS)
    assert all(figures["faults"] == [] and figures["refused"] > 0 for figures in kept["kinds"].values())
    assert all(figures["slowest_seconds"] < figures["limit_seconds"] for figures in kept["kinds"].values())
