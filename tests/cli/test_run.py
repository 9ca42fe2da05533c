"""``steerkit run``: what it asks before it draws, and what an interrupt leaves."""

from __future__ import annotations

import errno
import io
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from rich.live import Live

from steerkit import bundled, plan, report, stages
from steerkit.cli.main import main
from steerkit.engine.loading import fetch as fetching

RECIPE = """\
model: {source: "SOURCE", chat_template: none, accept_terms: ACCEPT}
data:
  warm: {inline: [w1, w2, w3], split: {train: 2, test: 1}}
  cold: {inline: [c1, c2, c3], split: {train: 2, test: 1}}
directions:
  warmth: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}
conditions:
  warmer: [ {add: {direction: warmth}} ]
evaluate:
  - cross_entropy: {data: warm.test}
control: {random_directions: 1}
"""

Steerkit = Callable[..., tuple[int, str]]


@pytest.fixture
def steerkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Steerkit:
    """Runs a recipe on a source; returns the exit code and stderr. The cache is empty, and no index is near."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STEERKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("STEERKIT_ACCEPT_TERMS", raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(fetching, "_download", None)

    def run(source: str = "tiny-random:llama", accept: str = "false", *more: str) -> tuple[int, str]:
        Path("r.yaml").write_text(RECIPE.replace("SOURCE", source).replace("ACCEPT", accept), "utf-8")
        with pytest.raises(SystemExit) as leaving:
            main(["run", "r.yaml", *more])
        return int(leaving.value.code or 0), capsys.readouterr().err

    return run


def test_terms_are_asked_about_while_nothing_is_drawn(steerkit: Steerkit, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing: set[int] = set()
    asked: list[int] = []
    start, stop = Live.start, Live.stop

    def starts(live: Live, *args: Any, **kwargs: Any) -> None:
        drawing.add(id(live))
        start(live, *args, **kwargs)

    def stops(live: Live) -> None:
        drawing.discard(id(live))
        stop(live)

    def ask(notice: str) -> bool:
        asked.append(len(drawing))
        return False

    monkeypatch.setattr(Live, "start", starts)
    monkeypatch.setattr(Live, "stop", stops)
    monkeypatch.setattr(bundled, "_ask", ask)
    code, said = steerkit("gemma3-270m")
    assert (code, asked) == (2, [0])
    assert "Nothing was fetched" in said and not Path("runs").exists()


def test_consent_in_the_recipe_is_not_asked_for(
    steerkit: Steerkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundled, "_ask", None)
    monkeypatch.setattr("steerkit.run.execute", interrupt)
    assert steerkit("gemma3-270m", accept="true")[0] == 130
    assert (tmp_path / "cache" / "terms" / "gemma3-270m.json").is_file()


def test_terms_are_no_matter_in_a_recipe_that_is_wrong(steerkit: Steerkit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "_ask", None)
    code, said = steerkit("gemma3-270m", accept="perhaps")
    assert code == 2 and "accept_terms" in said and "Nothing was run." in said


def interrupt(*args: Any, **kwargs: Any) -> NoReturn:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("module", "name", "said"),
    [
        (plan, "plan_recipe", "Nothing was run."),
        (stages, "prepare", "Nothing was run."),
        (stages, "make_graph", "Every stage that was finished is kept"),
        (report, "write_report", "`steerkit report runs/"),
    ],
)
def test_an_interrupt_says_what_there_is(
    steerkit: Steerkit, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, said: str
) -> None:
    monkeypatch.setattr(module, name, interrupt)
    code, error = steerkit()
    assert code == 130
    assert f"Interrupted. {said}" in error or (said in error and "measurements are kept" in error)
    assert ("Nothing was run" in error) == (not Path("runs").exists())


def loads_nothing(*args: Any, **kwargs: Any) -> NoReturn:
    raise AssertionError("The model is loaded.")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--out=file", "Can't write run directories in file: file is no folder. Choose another --out."),
        ("--out=file/x", "Can't write run directories in file/x: file is no folder. Choose another --out."),
        ("--out=", "an empty text names no folder"),
        ("--out=/tmp/\udcff", "the name is no UTF-8 text"),
        ("--store=file", "Can't write kept outputs in file: file is no folder. Choose another --store."),
        ("--store=file/x", "Can't write kept outputs in file/x: file is no folder. Choose another --store."),
        ("--store=link", "Can't write kept outputs in link: link is no folder. Choose another --store."),
        ("--store=", "an empty text names no folder"),
        ("--store=.", "A store is a folder of its own."),
        ("--out=locked", "Can't write run directories in locked: Read-only file system. Choose another --out."),
        ("--store=locked/x", "Can't write kept outputs in locked/x: Read-only file system. Choose another --store."),
    ],
)
def test_places_that_cannot_be_written_are_told_before_anything_loads(
    steerkit: Steerkit, monkeypatch: pytest.MonkeyPatch, option: str, said: str
) -> None:
    Path("file").touch()
    Path("link").symlink_to("nowhere")
    Path("locked").mkdir()
    make = tempfile.TemporaryFile

    def refusing(*args: Any, dir: Path, **kwargs: Any) -> Any:
        if Path(dir).name == "locked":  # a root user may write whatever the modes say
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return make(*args, dir=dir, **kwargs)

    monkeypatch.setattr(tempfile, "TemporaryFile", refusing)
    monkeypatch.setattr(stages, "prepare", loads_nothing)
    code, error = steerkit("tiny-random:llama", "false", option)
    assert code == 2
    assert said in " ".join(error.replace("│", " ").split())
    assert {path.name for path in Path().iterdir()} == {"r.yaml", "file", "link", "locked"}
    assert not any(Path("locked").iterdir())


def test_terms_are_no_matter_where_nothing_can_be_written(steerkit: Steerkit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "_ask", None)
    Path("file").touch()
    code, error = steerkit("gemma3-270m", "false", "--out=file")
    assert (code, error.strip()) == (2, "Can't write run directories in file: file is no folder. Choose another --out.")
