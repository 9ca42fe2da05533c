"""A run directory is whole from one moment on, whatever other processes do in it at the time."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from loguru import logger

from steerkit.artifacts import rundir
from steerkit.artifacts.results import Results
from steerkit.artifacts.rundir import LOG, STAGES, TIMINGS, RunDirectory
from steerkit.errors import ArtifactError

DIGEST = "0" * 64


def test_a_run_ends_well_where_another_process_makes_its_lock_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = os.rmdir

    def and_somebody_looks(path: Any, **options: Any) -> None:
        (done.path / STAGES / ".lock").touch()
        remove(path, **options)

    with RunDirectory.open(tmp_path, "small", DIGEST) as done:
        monkeypatch.setattr(os, "rmdir", and_somebody_looks)
        done.finish(Results.model_construct(), [])
        monkeypatch.undo()
    assert (done.path / "results.json").is_file() and (done.path / STAGES / ".lock").exists()
    # What is left of the stages doesn't make it an unfinished run.
    with RunDirectory.open(tmp_path, "small", DIGEST) as other:
        assert other.path != done.path and not other.resumed


def test_a_run_is_whole_before_its_lock_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that makes the lock anew while the stages go must not take the run for an unfinished one."""
    begun: list[Path] = []
    clear = shutil.rmtree

    def and_somebody_opens(path: Path, **options: Any) -> None:
        if not begun:
            (path / ".lock").unlink()
            begun.append(path)
            with RunDirectory.open(tmp_path, "small", DIGEST) as other:
                begun.append(other.path)
        clear(path, **options)

    with RunDirectory.open(tmp_path, "small", DIGEST) as done:
        monkeypatch.setattr(shutil, "rmtree", and_somebody_opens)
        done.finish(Results.model_construct(), [])
    assert begun[0] == done.path / STAGES and begun[1] != done.path
    assert not (done.path / STAGES).exists()


def test_halves_of_files_go_when_a_killed_run_goes_on(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path, "small", DIGEST) as killed:
        halves = [killed.path / ".results.json.0011223344556677.tmp", killed.path / STAGES / ".timings.json.00.tmp"]
        for half in halves:
            half.write_text("{")
        (killed.path / "plan.json").write_text("{}")
    with RunDirectory.open(tmp_path, "small", DIGEST) as on:
        assert on.resumed and on.path == killed.path
        assert not any(half.exists() for half in halves) and (on.path / "plan.json").exists()


def full(*args: Any, **kwargs: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_directory_that_can_not_be_begun_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rundir, "write_text", full)
    opened = RunDirectory.open(tmp_path / "runs", "small", DIGEST)
    with pytest.raises(ArtifactError, match="No space left on device"), opened:
        pass
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_log_that_can_not_be_written_ends_the_run_without_a_traceback_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add = logger.add
    monkeypatch.setattr(logger, "add", lambda file, **options: add(full, **options))
    with pytest.raises(OSError, match="No space left"), RunDirectory.open(tmp_path, "small", DIGEST) as begun:
        begun.note("a line")
    assert "Logging error" not in capsys.readouterr().err


def log_of(path: Path) -> str:
    return (path / LOG).read_text("utf-8")


UNREADABLE = (
    "",
    "{",
    "[1]",
    '{"a": "x"}',
    '{"a": null}',
    '{"a": 1e308}',
    '{"a": NaN}',
    '{"a": 1%s}' % ("0" * 400),
    "\udcff",
    "[" * 200_000,
)


@pytest.mark.parametrize("damaged", [*UNREADABLE, None])
@pytest.mark.parametrize("where", [STAGES, "."])
def test_times_that_cannot_be_read_begin_anew(tmp_path: Path, damaged: str | None, where: str) -> None:
    with RunDirectory.open(tmp_path, "small", DIGEST) as killed:
        killed.took("direction warmth", 2.0)
        if where == ".":  # a run that was finished but for what comes behind its results
            killed.write(Results.model_construct(), [])
            (killed.path / STAGES / TIMINGS).unlink()
    file = killed.path / where / TIMINGS
    if damaged is None:
        file.unlink()
        file.mkdir()
    else:
        file.write_text(damaged, "utf-8", "surrogateescape")
    with RunDirectory.open(tmp_path, "small", DIGEST) as on:
        assert on.path == killed.path and on.resumed and on.timings == {}
        on.took("direction warmth", 3.0)
        on.finish(Results.model_construct(), [])
    assert json.loads((on.path / TIMINGS).read_text()) == {"seconds": {"direction warmth": 3.0}}
    assert f"{file} can't be read and is discarded" in log_of(on.path)


def test_times_of_the_tries_before_count(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path, "small", DIGEST) as killed:
        killed.took("direction warmth", 2.0)
    with RunDirectory.open(tmp_path, "small", DIGEST) as on:
        on.took("direction warmth", 3.0)
        assert on.timings == {"direction warmth": 5.0}
    assert "can't be read" not in log_of(on.path)


@pytest.mark.parametrize("damaged", [b"", b"\xff\xfe", b"0" * 63, b"0" * 64 + b"\n", b"g" * 64])
def test_a_mark_that_cannot_be_read_leaves_the_run_unfinished(tmp_path: Path, damaged: bytes) -> None:
    with RunDirectory.open(tmp_path, "small", DIGEST) as killed:
        (killed.path / STAGES / "digest").write_bytes(damaged)
    with RunDirectory.open(tmp_path, "x-small", DIGEST) as other:  # of which the name is another's end
        assert other.path != killed.path
    with RunDirectory.open(tmp_path, "small", DIGEST) as on:
        assert on.path == killed.path and on.resumed
        assert (on.path / STAGES / "digest").read_text() == DIGEST


def test_a_mark_of_another_run_stays_its_own(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path, "small", DIGEST) as killed:
        pass
    with RunDirectory.open(tmp_path, "small", DIGEST[:8] + "1" * 56) as other:
        assert other.path != killed.path


@pytest.mark.parametrize("left", [[], [""], ["", ".lock"], ["", ".lock", ".digest.00.tmp"]])
def test_what_a_process_began_that_was_killed_at_once_is_begun_again(tmp_path: Path, left: list[str]) -> None:
    stem = f"20261126T120000Z-small-{DIGEST[:8]}"
    (tmp_path / stem).mkdir()
    for name in left:
        (tmp_path / stem / STAGES / name).touch() if name else (tmp_path / stem / STAGES).mkdir()
    (tmp_path / f"20261126T120000Z-x-small-{DIGEST[:8]}").mkdir()
    (tmp_path / f"20261126T130000Z-small-{DIGEST[:8]}").touch()
    with RunDirectory.open(tmp_path, "small", DIGEST) as begun:
        assert begun.path == tmp_path / stem and not begun.resumed
        assert sorted(path.name for path in (begun.path / STAGES).iterdir()) in (["digest"], [".lock", "digest"])
        with RunDirectory.open(tmp_path, "small", DIGEST) as beside:
            assert beside.path != begun.path


def test_a_directory_with_something_in_it_and_no_mark_is_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / f"20261126T120000Z-small-{DIGEST[:8]}"
    theirs.mkdir()
    (theirs / "notes.txt").write_text("mine")
    with RunDirectory.open(tmp_path, "small", DIGEST) as begun:
        assert begun.path != theirs


def test_a_process_whose_new_directory_is_taken_begins_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between making a directory and holding it, another process may take it for one that was given up."""
    make, taken = Path.mkdir, []

    def and_somebody_takes_it(path: Path, *args: Any, **options: Any) -> None:
        make(path, *args, **options)
        if path.parent == tmp_path and not taken:
            taken.append(path)
            lock = FileLock(path / STAGES / ".lock", is_singleton=False)
            lock.acquire()
            taken.append(lock)

    monkeypatch.setattr(Path, "mkdir", and_somebody_takes_it)
    with RunDirectory.open(tmp_path, "small", DIGEST) as begun:
        assert taken[0].is_dir() and begun.path != taken[0]
    taken[1].release()


def test_a_finished_directory_is_taken_up_again_where_it_is_asked_for(tmp_path: Path) -> None:
    asked: list[Path] = []

    def reopened(path: Path) -> bool:
        asked.append(path)
        return not (path / "report.html").exists()

    with RunDirectory.open(tmp_path, "small", DIGEST) as done:
        done.took("a", 1.0)
        done.finish(Results.model_construct(), [])
    with RunDirectory.open(tmp_path, "small", DIGEST, reopened) as again:
        assert again.path == done.path and again.resumed and again.timings == {"a": 1.0}
        (again.path / "report.html").touch()
        again.close()
    assert not (again.path / STAGES).exists()
    with RunDirectory.open(tmp_path, "small", DIGEST, reopened) as other:
        assert other.path != done.path
    assert set(asked) == {done.path}
