"""``steerkit sweep``: what is listed before anything runs, how it ends, and a sweep that is named by its directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerkit.cli.main import main
from steerkit.cli.sweep import SOME_FAILED, _once
from steerkit.errors import SteerkitError
from steerkit.sweeping import jobs
from tests.sweeping.small import RECIPE, REFUSED, states

MIDDLE = "directions.warmth.site=blocks.1.resid_mid"


@pytest.fixture(autouse=True)
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs, "write_report", lambda path: (path / "report.html").touch())


def sweep(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["sweep", *arguments])
    return int(left.value.code or 0)


def test_a_sweep_is_listed_run_and_gone_on_with(capsys: pytest.CaptureFixture[str]) -> None:
    over = ("--over", f"model.source=tiny-random:llama,{REFUSED}", "--over", "seed=1,2")
    assert sweep("small.yaml", *over, "--dry-run") == 0
    shown = capsys.readouterr()
    assert "4 runs, each at most" in shown.out
    assert shown.out.count("to run") == 4 and not Path("sweeps").exists()
    assert sweep("small.yaml", *over) == SOME_FAILED
    (folder,) = Path("sweeps").iterdir()
    assert [*states(folder).values()] == ["finished", "finished", "failed", "failed"]
    shown = capsys.readouterr()
    assert "4 runs, 2 finished, 2 failed" in shown.out and f"Comparison: {folder}/report.html" in shown.out
    assert "run 1 of 4: model.source=tiny-random:llama, seed=1" in shown.err
    words = " ".join(shown.out.split())
    assert f"- model.source={REFUSED}, seed=1; model.source={REFUSED}, seed=2: No layout can be read" in words
    assert sweep(str(folder), "--dry-run") == 0
    assert capsys.readouterr().out.count("finished") == 2 + 1, "two rows, and the sentence below them"
    assert sweep(str(folder)) == SOME_FAILED
    assert "2 finished already" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["report", str(folder)])
    assert "4 runs, 2 finished, 2 failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "nothing to sweep over"),
        (("--over", "seed"), "--over seed: expected a dotted key with its values"),
        (("--over", "seed=1,b"), '--over seed: expected a whole number, not "b" (seed=b)'),
        (("--over", "seed=1", "--set", "seed=2"), "--set seed=2: is swept with --over seed too"),
        (("--over", "modle.source=a,b"), "modle: unknown key. Did you mean 'model'?"),
        (
            ("--over", "model.source=tiny-random:mamba", "--set", "directions.warmth.site=blocks.1.resid_mid"),
            "no point",
        ),
        (("--over", "seed=1", "--executor", "procesess"), "Did you mean 'processes'?"),
        (("--over", "seed=1", "--workers", "2"), "has no workers"),
    ],
)
def test_mistakes_are_told_and_nothing_is_run(
    arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("small.yaml", *arguments) == 2
    assert told in capsys.readouterr().err and not Path("sweeps").exists()


def test_a_directory_goes_on_as_it_was_begun(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("small.yaml", "--over", "seed=1", "--out", "mine", "--store", "kept") == 0
    assert sweep("mine", "--over", "seed=2") == 2
    assert "goes on as it was begun" in capsys.readouterr().err
    Path("mine/sweep.json").write_text(Path("mine/sweep.json").read_text().replace("finished", "failed"))
    assert sweep("mine") == 0
    assert states(Path("mine")) == {"seed=1": "finished"} and not Path("mine/.store").exists()


def test_a_model_is_looked_at_once_also_where_that_tells_nothing() -> None:
    asked: list[str] = []

    def look(model: str, *_: object) -> str:
        asked.append(model)
        if model == "refused":
            raise SteerkitError("no layout")
        return f"layout of {model}"

    once = _once(look)  # type: ignore[arg-type]
    for _ in range(2):
        assert once("known", "auto", False) == "layout of known"  # type: ignore[arg-type,comparison-overlap]
        with pytest.raises(SteerkitError, match="no layout"):
            once("refused", "auto", False)  # type: ignore[arg-type]
    assert asked == ["known", "refused"]
