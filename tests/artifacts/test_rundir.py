"""A run directory is whole from one moment on, whatever other processes do in it at the time."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from steerkit.artifacts import rundir
from steerkit.artifacts.results import Results
from steerkit.artifacts.rundir import STAGES, RunDirectory
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
