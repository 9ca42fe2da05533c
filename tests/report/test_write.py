"""Writing the report: whole or not at all, nothing stale left, and the command that does it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from steerkit.cli.report import report_command
from steerkit.errors import ArtifactError
from steerkit.report import write_report


def test_writes_the_page_and_the_figures(build: Any) -> None:
    path = build()
    target = write_report(path)
    assert target == path / "report.html" and target.is_file()
    assert len(list((path / "plots").iterdir())) == 3
    assert not [item for item in path.rglob("*") if item.name.endswith(".tmp")]


def test_old_figures_of_ours_go_and_those_of_others_stay(build: Any) -> None:
    path = build()
    (path / "plots").mkdir()
    for name in ("conditions-9-gone.svg", "mine.svg", "dose-response.svg"):
        (path / "plots" / name).write_text("x")
    write_report(path)
    names = {item.name for item in (path / "plots").iterdir()}
    assert "conditions-9-gone.svg" not in names and {"mine.svg", "dose-response.svg"} <= names


def test_a_failed_write_leaves_the_old_report(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = build()
    before = write_report(path).read_bytes()
    real = os.replace

    def full(source: str, target: Path) -> None:
        if Path(target).name == "report.html":
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ArtifactError, match=r"No space left on device.*the measurements are kept"):
        write_report(path)
    assert (path / "report.html").read_bytes() == before
    assert not [item for item in path.rglob("*") if item.name.endswith(".tmp")]


@pytest.mark.skipif(os.name != "posix", reason="file modes are those of POSIX")
@pytest.mark.parametrize("umask", [0o077, 0o022])
def test_a_report_is_for_those_whom_the_umask_lets_read(build: Any, umask: int) -> None:
    before = os.umask(umask)
    try:
        target = write_report(build())
    finally:
        os.umask(before)
    for path in (target, *(target.parent / "plots").iterdir()):
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_damaged_run_leaves_the_old_report(build: Any) -> None:
    path = build()
    before = write_report(path).read_bytes()
    (path / "results.json").write_text("{")
    with pytest.raises(ArtifactError):
        write_report(path)
    assert (path / "report.html").read_bytes() == before


def test_the_command(build: Any) -> None:
    path = build()
    app = typer.Typer()
    app.command()(report_command)
    result = CliRunner().invoke(app, [str(path)])
    assert result.exit_code == 0, result.output
    assert (path / "report.html").is_file()
    assert "choice_logit_difference on probe.test" in result.output
    assert str(path / "report.html") in result.output


def test_reading_a_report_needs_neither_torch_nor_a_model(build: Any) -> None:
    code = (
        "import sys; from steerkit.report import summary, write_report; "
        "assert not {'torch', 'matplotlib', 'jinja2'} & set(sys.modules); "
        f"write_report({str(build())!r}); summary({str(build())!r}); "
        "assert not {'torch', 'transformers', 'steerkit.plan', 'steerkit.recipe', 'steerkit.engine'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
