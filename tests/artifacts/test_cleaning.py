"""A store is made smaller, and nothing else is: neither by age nor by size does a run directory lose what it needs."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from steerkit.artifacts import cleaning
from steerkit.artifacts.cleaning import clean_store
from steerkit.artifacts.files import HALVES
from steerkit.artifacts.rundir import RunDirectory
from steerkit.artifacts.store import STORE, Store
from steerkit.baking import bake
from steerkit.cli.main import main
from steerkit.errors import ArtifactError
from steerkit.report import load_run, write_report
from steerkit.run import run_recipe
from tests.small_run import RECIPE, STABLE, carried, runs_in

DAY = 86_400.0


def key(number: int) -> str:
    return f"{number:02x}" + "0" * 62


def filled(folder: Path, *days: float) -> Store:
    """A store with an entry of 65 + 35 bytes for each of some ages."""
    store = Store(folder)
    for number, age in enumerate(days):
        store.put(key(number), b"x" * 35)
        then = time.time() - age * DAY
        os.utime(folder / key(number)[:2] / key(number), (then, then))
    return store


def kept(store: Store, n: int) -> list[int]:
    return [number for number in range(n) if (store.folder / key(number)[:2] / key(number)).exists()]


@pytest.mark.parametrize(
    ("older_than", "at_most", "left"),
    [
        (None, None, [0, 1, 2, 3]),
        (20 * DAY, None, [1, 2, 3]),
        (4 * DAY, None, [1, 3]),
        (None, 400, [0, 1, 2, 3]),
        (None, 399, [1, 2, 3]),
        (None, 200, [1, 3]),
        (None, 199, [3]),
        (None, 0, []),
        (4 * DAY, 100, [3]),
        (0.0, None, []),
    ],
)
def test_what_is_too_old_goes_and_then_what_was_used_longest_ago(
    tmp_path: Path, older_than: float | None, at_most: float | None, left: list[int]
) -> None:
    store = filled(tmp_path, 30, 3, 10, 1)
    looked = clean_store(tmp_path, older_than=older_than, at_most=at_most, dry=True)
    assert kept(store, 4) == [0, 1, 2, 3]
    cleaned = clean_store(tmp_path, older_than=older_than, at_most=at_most)
    assert kept(store, 4) == left
    assert cleaned == looked and len(cleaned.removed) == 4 - len(left) and not cleaned.held
    assert [one.size for one in cleaned.before] == [100] * 4


def test_what_is_read_counts_as_used(tmp_path: Path) -> None:
    store = filled(tmp_path, 30, 20)
    assert store.get(key(0)) == b"x" * 35
    clean_store(tmp_path, older_than=10 * DAY)
    assert kept(store, 2) == [0]


def test_nothing_but_entries_is_touched(tmp_path: Path) -> None:
    folder, outside = tmp_path / "store", tmp_path / "outside"
    filled(folder, 30)
    outside.mkdir()
    (outside / key(1)).write_text("theirs")
    (folder / "notes.txt").write_text("mine")
    (folder / "00" / "notes.txt").write_text("mine")
    (folder / "00" / key(1)).write_text("of another folder")
    (folder / "00" / key(0).upper().replace("0", "A", 1)).write_text("no key")
    (folder / "02").mkdir()
    (folder / "02" / key(2)).mkdir()
    (folder / "03").mkdir()
    (folder / "03" / key(3)).symlink_to(outside / key(1))
    (folder / "01").symlink_to(outside)
    (folder / "run").mkdir()
    (folder / "run" / key(0)).write_text("a file of somebody's")
    (folder / "00" / f".{key(0)}.0123456789abcdef.tmp").touch()
    for other in (folder / ".theirs.tmp", folder / "00" / ".theirs.0123456789abcdef.tmp", folder / "run" / ".x.y.tmp"):
        other.touch()
    before = set(tmp_path.rglob("*"))
    cleaned = clean_store(folder, older_than=0.0, at_most=0)
    gone = before - set(tmp_path.rglob("*"))
    assert gone == {folder / "00" / key(0), folder / "00" / f".{key(0)}.0123456789abcdef.tmp"}
    assert len(cleaned.removed) == 1 and cleaned.halves == 1


def test_what_an_unfinished_run_has_used_stays(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    store = filled(runs / STORE, 30, 20, 10)
    with RunDirectory.open(runs, "small", "0" * 64) as killed:
        store.get(key(1))
    cleaned = clean_store(store.folder, [runs], at_most=0)
    assert kept(store, 3) == [1] and [one.path.name for one in cleaned.held] == [key(1)]
    assert cleaned.unfinished == (killed.path,)
    killed.close()
    clean_store(store.folder, [runs], at_most=0)
    assert kept(store, 3) == []


def test_a_run_is_read_reported_and_baked_without_its_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, runs = tmp_path / "small.yaml", tmp_path / "runs"
    recipe.write_text(RECIPE)
    run = run_recipe(recipe, out=runs)
    write_report(run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    clean_store(runs / STORE, [runs], at_most=0)
    assert not [path for path in (runs / STORE).rglob("*") if path.is_file()]
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert load_run(run).samples and write_report(run).exists()
    assert bake(run, "without", tmp_path / "baked").changed
    done = carried(monkeypatch)
    again = run_recipe(recipe, out=runs)
    assert done and again != run
    for name in STABLE:
        assert (again / name).read_bytes() == (run / name).read_bytes(), name


def test_a_killed_run_goes_on_after_a_cleaning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, runs = tmp_path / "small.yaml", tmp_path / "runs"
    recipe.write_text(RECIPE)
    with monkeypatch.context() as patch:
        first = carried(patch, dies_at=7)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe, out=runs)
    cleaned = clean_store(runs / STORE, [runs], at_most=0)
    assert len(cleaned.held) >= len(first) > 0 and not cleaned.removed
    done = carried(monkeypatch)
    assert [run_recipe(recipe, out=runs)] == runs_in(runs)
    assert not {task.key for task in done} & {task.key for task in first}


def test_a_store_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="There is no store in"):
        clean_store(tmp_path / "nowhere")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    store = filled(tmp_path / "runs" / STORE, 30, 1)

    def said(*words: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as leaving:
            main(["clean", *words])
        assert (leaving.value.code or 0) == code
        told = capsys.readouterr()
        return told.err if code else told.out

    folder = f"runs/{STORE}: 2 outputs (200 bytes)."
    assert (
        said()
        == f"{folder}\nSay what may go: --older-than 30d, --at-most 2GB, or both. What is gone is computed again.\n"
    )
    would = "Would remove 1 output (100 bytes); 1 output (100 bytes) would be left."
    assert said("--older-than", "2w", "--dry-run") == f"{folder}\n{would}\n" and kept(store, 2) == [0, 1]
    assert said("--older-than", "2w") == f"{folder}\nRemoved 1 output (100 bytes); 1 output (100 bytes) left.\n"
    assert kept(store, 2) == [1]
    with RunDirectory.open(tmp_path / "runs", "small", "0" * 64) as killed:
        store.get(key(1))
    held = said("--at-most", "0").split("\n")[2]
    assert held.startswith("1 output (100 bytes) would have gone as well") and killed.path.name in held
    for words in (("--older-than", "30"), ("--older-than", "-3d"), ("--at-most", "2 apples"), ("--at-most", "3ib")):
        assert "is no " in said(*words, code=2), words
    assert "There is no store in" in said("--out", "nowhere", code=2)
    shutil.rmtree(killed.path)
    assert said("--store", f"runs/{STORE}", "--at-most", "99").endswith("0 outputs (0 bytes) left.\n")
    assert not list(tmp_path.rglob(HALVES))


@pytest.mark.parametrize(("text", "size"), [("500MB", 5e8), ("2GiB", 2 * 1024**3), ("1.5k", 1500), ("7", 7)])
def test_sizes_as_they_are_written(text: str, size: float) -> None:
    from steerkit.cli.clean import _size

    assert _size(text) == size


def test_what_cannot_be_removed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, 30)

    def refused(path: Path, **options: bool) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cleaning.Path, "unlink", refused)
    with pytest.raises(ArtifactError, match=r"Can't remove .*: Permission denied"):
        clean_store(tmp_path, at_most=0)
