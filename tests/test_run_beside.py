"""Runs and tasks beside each other: threads, processes, logs and directories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steerkit import stages
from steerkit.artifacts.store import Store
from steerkit.errors import SteerkitError
from steerkit.executors import local
from steerkit.run import run_recipe
from tests.small_run import RECIPE
from tests.test_run_kinds import DEEP, PAIRED, write_pairs


@pytest.mark.parametrize("name", ["small", "deep", "paired"])
def test_every_task_gives_equal_bytes_in_a_fresh_process(tmp_path: Path, name: str) -> None:
    """What a process pool of the interpreter's own gives is what this process gives."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    from steerkit.catalog import Catalog
    from steerkit.executors.schedule import Outputs
    from steerkit.plan import plan_recipe

    path = tmp_path / f"{name}.yaml"
    path.write_text({"small": RECIPE, "deep": DEEP, "paired": PAIRED}[name], "utf-8")
    write_pairs(tmp_path)
    found = plan_recipe(path, (), Catalog.discover())
    live = stages.load(found)
    use = stages.model_use(found, live)
    graph = stages.make_graph(found, use)
    here = local.LocalExecutor(stages.Bench(use, live))
    expected = Outputs(graph.tasks, graph.given, Store(tmp_path / "here"), here).want(graph.tasks)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        there = Outputs(graph.tasks, graph.given, Store(tmp_path / "there"), PoolExecutor(pool)).want(graph.tasks)
    assert there == expected and len(there) > 5


class PoolExecutor:
    """An executor of a few lines: units in a pool's processes, the first that was handed in back first."""

    width = 2

    def __init__(self, pool: Any) -> None:
        self.pool, self.running = pool, []

    def submit(self, unit: Any) -> None:
        self.running.append(self.pool.submit(local.run_unit, unit))

    def done(self) -> Any:
        return self.running.pop(0).result()

    def close(self) -> None:
        self.running.clear()


def test_two_runs_in_one_process_write_each_into_its_own_log(tmp_path: Path) -> None:
    import threading

    text = """
model: {source: "tiny-random:llama"}
data: {a: {inline: [NAME, two, three]}}
evaluate: [{refusal_score: {name: NAME, data: a}}]
"""
    logs: dict[str, str] = {}

    def go(name: str) -> None:
        path = tmp_path / f"{name}.yaml"
        path.write_text(text.replace("NAME", name))
        logs[name] = (run_recipe(path, out=tmp_path / "runs") / "run.log").read_text()

    threads = [threading.Thread(target=go, args=(name,)) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "first on a" in logs["first"] and "second on a" in logs["second"]
    assert "second" not in logs["first"] and "first" not in logs["second"]


def test_a_run_has_as_many_threads_as_it_is_told(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "alone.yaml"
    path.write_text(
        'model: {source: "tiny-random:llama"}\ndata: {a: {inline: [one]}}\nevaluate: [{refusal_score: {data: a}}]\n'
    )
    before = torch.get_num_threads()
    runs = {number: run_recipe(path, out=tmp_path / "runs", threads=number) for number in (1, 2)}
    assert torch.get_num_threads() == before
    for number, run in runs.items():
        assert json.loads((run / "provenance.json").read_text())["model"]["threads"] == number
    assert runs[1].name.rsplit("-", 1)[1] != runs[2].name.rsplit("-", 1)[1]
    with pytest.raises(SteerkitError, match="1 to 1024 threads, not 0"):
        run_recipe(path, out=tmp_path / "runs", threads=0)


def test_two_runs_at_once_never_share_a_directory(tmp_path: Path) -> None:
    from steerkit.artifacts.rundir import RunDirectory

    with RunDirectory.open(tmp_path, "small", "0" * 64) as one, RunDirectory.open(tmp_path, "small", "0" * 64) as two:
        assert one.path != two.path
    with RunDirectory.open(tmp_path, "small", "0" * 64) as third:
        assert third.resumed and third.path in (one.path, two.path)
