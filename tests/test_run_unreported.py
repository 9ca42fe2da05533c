"""A run whose measurements are there and whose report isn't: whatever stopped it, nothing is measured a second time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from steerkit import report
from steerkit.artifacts.files import HALVES
from steerkit.artifacts.rundir import LOG, STAGES
from steerkit.artifacts.store import STORE
from steerkit.catalog import Catalog
from steerkit.cli.main import main
from steerkit.plan import plan_recipe
from steerkit.report import write_report
from steerkit.run import execute, run_recipe
from tests.small_run import RECIPE, STABLE, carried, runs_in

PLACES = ("plan.json", "provenance.json")
"""What says where the recipe lies and how it was started."""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all but a report, and the store beside it."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "small.yaml").write_text(RECIPE)
    return run_recipe(folder / "small.yaml", out=folder / "runs")


def reported(recipe: Path, out: Path, **options: Any) -> Path:
    return execute(plan_recipe(recipe, (), Catalog.discover()), out, report=write_report, **options)


def require_same(run: Path, made: Path) -> None:
    for name in STABLE:
        assert name in PLACES or (run / name).read_bytes() == (made / name).read_bytes(), name


def test_who_is_stopped_in_the_report_goes_on_with_the_report(
    recipe: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, write = tmp_path / "runs", report.write_whole
    calls: list[Path] = []

    def stopped(path: Path, data: bytes) -> None:
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(report, "write_whole", stopped)
        with pytest.raises(KeyboardInterrupt):
            reported(recipe, out)
    (run,) = runs_in(out)
    assert (run / "results.json").exists() and not (run / "report.html").exists()
    for half in (run / ".report.html.0123456789abcdef.tmp", run / "plots" / ".x.svg.0123456789abcdef.tmp"):
        half.touch()
    times = (run / "timings.json").read_bytes()
    shutil.rmtree(out / STORE)
    done = carried(monkeypatch)
    assert reported(recipe, out) == run and runs_in(out) == [run]
    assert not done and (run / "report.html").exists() and not (run / STAGES).exists()
    assert not list(run.rglob(HALVES)) and (run / "timings.json").read_bytes() == times
    assert "everything is measured already" in (run / LOG).read_text()
    require_same(run, made)
    # With its report it is finished, and left alone.
    assert reported(recipe, out) != run


def test_who_is_killed_at_once_or_in_the_report_goes_on_in_the_same_directory(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    command = [sys.executable, "-m", "tests.dying_in_report", str(recipe), str(out)]
    root, environment = Path(__file__).parents[1], {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["codes"] == [-signal.SIGKILL] * 12 + [0], done.stderr
    assert told["other"] == [] and told["files"] >= 7
    (run,) = runs_in(out)
    assert (run / "report.html").exists() and not list(out.rglob(HALVES)) and not (run / STAGES).exists()


def test_the_command_makes_the_report_that_a_finished_run_lacks(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"
    run = run_recipe(recipe, out=out)
    shutil.rmtree(out / STORE)
    done = carried(monkeypatch)
    with pytest.raises(SystemExit) as leaving:
        main(["run", str(recipe), "--out", str(out)])
    assert not leaving.value.code
    assert not done and runs_in(out) == [run] and (run / "report.html").exists()
    assert f"continuing {run}" in "".join(capsys.readouterr().err.split("\n"))


DAMAGED = [
    ("results.json", b"{"),
    ("results.json", b'{"schema_version": 99, "name": "x", "model": {"source": "x"}}'),
    ("samples.jsonl", b"{"),
    ("samples.jsonl", b"[]\n"),
    ("samples.jsonl", b""),
    ("samples.jsonl", None),
    ("directions.safetensors", b"\x10\x00"),
    ("directions.safetensors", None),
    ("plan.json", b"\xff"),
]


@pytest.mark.parametrize(("name", "content"), DAMAGED)
def test_what_is_damaged_is_made_again(
    recipe: Path, made: Path, tmp_path: Path, name: str, content: bytes | None
) -> None:
    out = tmp_path / "runs"
    run = Path(shutil.copytree(made, out / made.name))
    (run / name).unlink()
    if content is not None:
        (run / name).write_bytes(content)
    assert reported(recipe, out, store=made.parent / STORE) == run and (run / "report.html").exists()
    require_same(run, made)
    log = (run / LOG).read_text()
    assert str(run / name) in log and "discarded, and what was measured is written again" in log


def test_half_of_the_directions_is_made_again(recipe: Path, made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made, tmp_path / "runs" / made.name))
    whole = (run / "directions.safetensors").read_bytes()
    (run / "directions.safetensors").write_bytes(whole[: len(whole) // 2])
    assert reported(recipe, tmp_path / "runs", store=made.parent / STORE) == run
    assert (run / "directions.safetensors").read_bytes() == whole


def test_a_finished_run_of_another_title_is_left_alone(recipe: Path, made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made, tmp_path / "runs" / made.name))
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    recipe.write_text(RECIPE.replace("report:\n", "report:\n  title: Other\n"))
    assert reported(recipe, tmp_path / "runs", store=made.parent / STORE) != run
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_in_python_a_finished_run_is_left_alone(recipe: Path, made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made, tmp_path / "runs" / made.name))
    assert run_recipe(recipe, out=tmp_path / "runs", store=made.parent / STORE) != run


def test_a_finished_run_of_the_same_data_elsewhere_is_left_alone(tmp_path: Path) -> None:
    """It is the same run by its key, but says of its data that they lie where it found them."""
    recipes = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("one line\nanother line\n")
        recipes.append(tmp_path / name / "small.yaml")
        recipes[-1].write_text(
            """
model: {source: "tiny-random:llama", dtype: float32}
data: {a: {file: a.txt}}
conditions: {asked: {system_prompt: Be warm.}}
evaluate: [refusal_score: {data: a}]
"""
        )
    run = run_recipe(recipes[0], out=tmp_path / "runs")
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    other = reported(recipes[1], tmp_path / "runs")
    assert other != run and other.name.split("-", 1)[1] == run.name.split("-", 1)[1]
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert "there/a.txt" in (other / "recipe.yaml").read_text()
    assert reported(recipes[0], tmp_path / "runs") == run


@pytest.mark.parametrize("damage", ["twice", "huge", "stranger"])
def test_what_the_report_refuses_to_read_is_written_again(
    recipe: Path, made: Path, tmp_path: Path, damage: str
) -> None:
    out = tmp_path / "runs"
    shutil.copytree(made.parent, out)
    run = out / made.name
    text = (run / "results.json").read_text("utf-8")
    results = json.loads(text)
    if damage == "twice":
        text = text.replace("{", '{"seed": 0,', 1)
    elif damage == "huge":
        results["records"][0]["value"] = 1e200
        text = json.dumps(results)
    else:
        results["records"][0]["condition"] = "nobody"
        text = json.dumps(results)
    (run / "results.json").write_text(text, "utf-8")
    assert reported(recipe, out) == run and (run / "report.html").exists()
    require_same(run, made)
    assert "written again" in (run / LOG).read_text("utf-8")
