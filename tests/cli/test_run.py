"""``steerkit run``: what it asks before it draws, and what an interrupt leaves."""

from __future__ import annotations

import io
import sys
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

    def run(source: str = "tiny-random:llama", accept: str = "false") -> tuple[int, str]:
        Path("r.yaml").write_text(RECIPE.replace("SOURCE", source).replace("ACCEPT", accept), "utf-8")
        with pytest.raises(SystemExit) as leaving:
            main(["run", "r.yaml"])
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
        (stages, "load", "Nothing was run."),
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
