"""Where something can't be written, it is told before anything is read, loaded or computed for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

import steerkit
from steerkit import stages
from steerkit.capability import capability_of_run, runs
from steerkit.cli.main import main
from steerkit.run import run_recipe
from tests.small_run import RECIPE


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "small.yaml").write_text(RECIPE)
    return run_recipe(folder / "small.yaml", out=folder / "runs")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, where nothing is loaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stages, "load", loads_nothing)


def loads_nothing(*args: Any, **kwargs: Any) -> NoReturn:
    raise AssertionError("The model is loaded.")


def told(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    with pytest.raises(SystemExit) as leaving:
        main([str(word) for word in words])
    assert leaving.value.code == 2
    return " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_text_names_no_place(run: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    baked = ("bake", run, "--condition", "without", "--out", text)
    tasks = ("capability", run, "--condition", "without", "--tasks", "arc_easy")
    words: tuple[object, ...]
    for words in (baked, (*tasks, "--json", text), (*tasks, "--include", text), ("run", "small", "--out", text)):
        assert "an empty text names no" in told(capsys, *words), words
    for words in (
        ("report", text),
        ("compare", run, text),
        ("select", text),
        ("bake", text, *baked[2:4], "--out", "x"),
    ):
        assert "no file. Name one." in told(capsys, *words), words
    for words in (("run", text), ("check", text), ("sweep", text, "--over", "seed=1")):
        assert "an empty text names none" in told(capsys, *words), words
    assert not list(Path().iterdir()), "the folder that one is in is as it was"


def test_a_name_that_is_too_long_is_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 300
    Path("small.yaml").write_text(RECIPE)
    for words in (
        ("init", "calm", "--model", "tiny-random:llama", "--out", long),
        ("new-plugin", "abc", "--kind", "format", "--out", long),
        ("run", "small.yaml", "--out", long),
        ("run", "small.yaml", "--store", long),
        ("sweep", "small.yaml", "--over", "seed=1", "--out", long),
        ("sweep", "small.yaml", "--over", "seed=1", "--store", long),
        ("compare", run, run.parent, "--html", long),
        ("bake", run, "--condition", "without", "--out", long),
    ):
        assert "file name too long" in told(capsys, *words).lower(), words
    for words in (("report", long), ("clean", "--out", long), ("clean", "--store", long), ("compare", run, long)):
        assert "xxx… " in told(capsys, *words).replace("/.store", "").replace("….", "… "), words
    assert [one.name for one in Path().iterdir()] == ["small.yaml"]
    for read in (steerkit.read_run, steerkit.Direction.load, steerkit.load_directions, steerkit.load_model):
        with pytest.raises(steerkit.SteerkitError):
            read(long)


def test_a_checkpoint_that_cannot_be_written_is_told_at_once(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    said = told(capsys, "bake", run, "--condition", "without", "--out", "file/x")
    assert said.startswith("Can't write a checkpoint in ") and said.endswith("Name another folder with --out.")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder in which nobody can make one")
@pytest.mark.parametrize("words", [("init", "warmth"), ("new-plugin", "x_y", "--kind", "estimator")])
def test_files_to_begin_from_that_cannot_be_written(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    said = told(capsys, *words, "--out", "/proc/self/nothing")
    assert "can't be written" in said and said.endswith("Nothing was written: choose another folder with --out.")


@pytest.mark.parametrize("there", ["file/x.json", "folder", ""])
def test_scores_that_cannot_be_written_are_told_at_once(run: Path, monkeypatch: pytest.MonkeyPatch, there: str) -> None:
    monkeypatch.setattr(runs, "require_harness", lambda: None)
    Path("file").touch()
    Path("folder").mkdir()
    with pytest.raises(steerkit.SteerkitError, match=r"Can't write scores.*Choose another --json"):
        capability_of_run(run, ["without"], ["arc_easy"], file=there)


@pytest.mark.parametrize("there", ["", ".", "/"])
def test_directions_are_written_to_files(there: str) -> None:
    direction = steerkit.Direction(torch.ones(1, 4), "blocks.1.resid_pre")
    with pytest.raises(steerkit.SteerkitError, match=r"is a folder\. Name the file"):
        steerkit.save_directions(there, [direction])


def test_in_python_an_empty_text_names_no_place_either(run: Path) -> None:
    with pytest.raises(steerkit.SteerkitError, match="An empty text names no folder"):
        steerkit.bake(run, "without", "")
    with pytest.raises(steerkit.SteerkitError, match="an empty text is none"):
        run_recipe("small.yaml", out=" ")
    Path("small.yaml").write_text(RECIPE, "utf-8")
    with pytest.raises(steerkit.SteerkitError, match="its name is no UTF-8 text"):
        run_recipe("small.yaml", out="runs-\udcff")


def test_a_place_that_is_read_only_is_told_before_torch_is_there(tmp_path: Path) -> None:
    """By the system itself, as a user without rights; that is what makes the answer quick."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    (tmp_path / "small.yaml").write_text(RECIPE)
    code = """
import os, sys
from pathlib import Path
from steerkit.catalog import Catalog
from steerkit.plan import plan_recipe
from steerkit.run import require_places
plan_recipe("small.yaml", (), Catalog.discover())
if os.getuid() == 0:
    os.seteuid(65534)
try:
    require_places(Path("locked/runs"))
finally:
    print("torch" in sys.modules)
"""
    tmp_path.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Can't write run directories in locked/runs: Permission denied. Choose another --out." in done.stderr
    assert done.stdout.strip() == "False"
