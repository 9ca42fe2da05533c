"""A run whose tasks are carried out by processes of this machine: the same bytes, whatever happens to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steerkit.errors import PluginError, SteerkitError
from steerkit.executors import processes
from steerkit.run import run_recipe
from tests.small_run import RECIPE, STABLE, runs_in

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are killed by signals")

CALLED = ["recipe.yaml", "plan.json", "directions.safetensors", "results.json", "samples.jsonl"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(RECIPE, "utf-8")
    return path


@pytest.fixture(scope="module")
def here(recipe: Path) -> Path:
    """The run that this process carries out."""
    return run_recipe(recipe, out=recipe.parent / "here", threads=1)


class Steps:
    """An observer that does something at the first step that comes from a worker while conditions run."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act, self.seen, self.bars = act, list[str](), list[tuple[int, int]]()

    def step(self, what: str) -> None:
        self.seen.append(what)
        begun = any(step.startswith("condition ") for step in self.seen)
        if begun and type(what) is str and self.act is not None:
            act, self.act = self.act, lambda: None
            act()

    def progress(self, done: int, of: int) -> None:
        self.bars.append((done, of))


def test_a_worker_that_is_killed_costs_its_task_and_no_byte(
    recipe: Path, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Popen(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            if self.args[0] == sys.executable:
                started.append(self)

    monkeypatch.setattr(processes.subprocess, "Popen", Popen)
    watcher = Steps(lambda: started[-1].kill())
    run = run_recipe(recipe, out=tmp_path / "runs", threads=1, executor="processes", workers=2, observer=watcher)
    monkeypatch.undo()
    for name in STABLE:
        assert (run / name).read_bytes() == (here / name).read_bytes(), name
    log = (run / "run.log").read_text()
    assert "executor processes: 2 workers, 1 thread each" in log
    assert "ended (killed by SIGKILL) while it carried out condition" in log
    assert len(started) == 3 and all(process.poll() is not None for process in started)
    assert sum(step.startswith("loading") for step in watcher.seen) == 1
    assert watcher.bars and all(0 <= done <= of for done, of in watcher.bars)
    assert json.loads((run / "provenance.json").read_text())["model"]["threads"] == 1


@pytest.mark.slow
def test_an_interrupt_ends_workers_and_the_run_goes_on_later(recipe: Path, here: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    command = [sys.executable, "-m", "steerkit", "run", str(recipe), "--out", str(out), "--threads", "1"]
    driver = subprocess.Popen(
        [*command, "--executor", "processes", "--workers", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    children = Path(f"/proc/{driver.pid}/task/{driver.pid}/children")
    try:
        while not any("condition warmer" in log.read_text() for log in out.glob("*/run.log")):
            assert driver.poll() is None
            time.sleep(0.02)
        workers = [int(pid) for pid in children.read_text().split()] if children.exists() else []
        os.killpg(driver.pid, signal.SIGINT)
        printed, said = driver.communicate(timeout=60)
    finally:
        driver.kill()
    assert driver.returncode == 130 and "Traceback" not in said, said
    assert said.splitlines()[-1] == (
        "Interrupted. Every stage that was finished is kept: the same command goes on from there."
    )
    assert not printed and not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    run = run_recipe(recipe, out=out, threads=1)
    assert runs_in(out) == [run] and not list(out.rglob("*.tmp"))
    assert "continuing" in (run / "run.log").read_text()
    for name in CALLED:
        assert (run / name).read_bytes() == (here / name).read_bytes(), name


@pytest.mark.slow
def test_what_a_unit_raises_is_what_it_raises_here(tmp_path: Path) -> None:
    """A position that no prompt has is met when the data are read, by a worker."""
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.replace("site: blocks.1.resid_pre", "site: blocks.1.resid_pre, positions: -40"), "utf-8")
    told = []
    for executor in ("local", "processes"):
        with pytest.raises(SteerkitError) as raised:
            run_recipe(path, out=tmp_path / executor, threads=1, executor=executor)
        told.append((type(raised.value), str(raised.value)))
    assert told[0] == told[1] and not issubclass(told[0][0], PluginError)
