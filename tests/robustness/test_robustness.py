"""Damaged inputs of every kind: none ends in a traceback, none hangs, none leaves half a file.

A few of each here, many in ``make test-slow``; ``python -m benchmarks.robustness`` keeps the figures of more.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from benchmarks.robustness import __main__ as bench
from benchmarks.robustness import attempts
from benchmarks.robustness.attempts import Tally, attempt, call, command
from benchmarks.robustness.kinds import KINDS, Told
from benchmarks.robustness.whole import RECIPE
from steerkit.errors import DataError

FEW = {"recipes": 15, "data": 15, "directions": 20, "models": 8, "runs": 3}
MANY = {"recipes": 600, "data": 600, "directions": 600, "models": 150, "runs": 60, "stops": 60}


@pytest.mark.parametrize("kind", FEW)
def test_a_few_damaged_inputs(tmp_path: Path, kind: str) -> None:
    tally = KINDS[kind](FEW[kind], 1, tmp_path)
    assert tally.faults == []
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


def test_the_command_says_how_long_and_how_far_and_keeps_nothing_of_a_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cheap(inputs: int, seed: int, folder: Path, told: Told) -> Tally:
        tally = Tally("recipes", seed)
        for number in range(inputs):
            attempt(tally, f"{number}", lambda: (2, "No."), folder)
            told(number + 1, inputs)
        return tally

    monkeypatch.setattr(bench, "KINDS", {"recipes": cheap})
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    monkeypatch.setattr(bench, "_check_seconds", lambda: 2.0)
    with pytest.raises(SystemExit) as ended:
        bench.main(["--quick"])
    assert not ended.value.code and not list(tmp_path.iterdir())
    said = capsys.readouterr()
    assert said.err.splitlines() == ["robustness: about 40 s in all", "robustness, recipes: 20 of 20, done"]
    assert said.out.startswith("recipes: 20 inputs, 20 refused, 0 accepted, 0 faults")
    with pytest.raises(SystemExit):
        bench.main(["--inputs", "3"])
    assert json.loads((tmp_path / "robustness.json").read_text())["kinds"]["recipes"]["inputs"] == 3


def test_every_benchmark_takes_a_smaller_size() -> None:
    rooms = [path.parent for path in Path(bench.__file__).parents[1].glob("*/__main__.py")]
    assert len(rooms) > 5
    for room in rooms:
        option = "--limit" if room.name == "organism" else "--quick"
        assert f'add_argument("{option}"' in (room / "__main__.py").read_text("utf-8"), room.name


def test_the_figures_that_are_kept_are_of_every_kind_and_have_no_fault() -> None:
    kept = json.loads((Path(__file__).parents[2] / "benchmarks/results/robustness.json").read_text())
    assert list(kept["kinds"]) == list(KINDS)
    assert all(figures["faults"] == [] and figures["refused"] > 0 for figures in kept["kinds"].values())
    assert all(figures["slowest_seconds"] < figures["limit_seconds"] for figures in kept["kinds"].values())
