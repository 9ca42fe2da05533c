"""What an executor can't have is said before anything is loaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from steerkit.errors import ExecutorError, SteerkitError, UnknownNameError
from steerkit.executors import chosen
from steerkit.executors.chosen import ON_A_CPU, named
from steerkit.plan import PlannedLoading
from steerkit.run import run_recipe
from steerkit.types.placement import ModelPlacement

CPU = PlannedLoading("tiny-random:llama", device="cpu")


@pytest.mark.parametrize(
    ("asked", "kind", "told"),
    [
        (("proceses",), UnknownNameError, "Unknown executor 'proceses'. Did you mean 'processes'?"),
        ((3,), UnknownNameError, "Unknown executor 3. Available: local, processes, ray."),
        ((None, 2), ExecutorError, "The executor local has no workers."),
        (("processes", 0), ExecutorError, "An executor has 1 to 1024 workers, not 0."),
        (("processes", True), ExecutorError, "not True"),
        (("ray", 1025), ExecutorError, "not 1025"),
        (("processes", 2, "auto"), ExecutorError, "The executor processes has no address."),
        (("ray", 2, " "), ExecutorError, "such as auto or 10.0.0.1:6379"),
    ],
)
def test_a_choice_that_is_none_is_refused(asked: Any, kind: type[SteerkitError], told: str) -> None:
    with pytest.raises(kind) as refused:
        named(*asked)
    assert told in str(refused.value) and "\n" not in str(refused.value)


def test_no_more_workers_than_devices() -> None:
    there = max(os.cpu_count() or 1, ON_A_CPU)
    named("processes", there).require(CPU)
    with pytest.raises(ExecutorError, match=rf"take {there} at most, one for each CPU core"):
        named("processes", there + 1).require(CPU)


@pytest.mark.parametrize(
    ("device", "told"),
    [("cuda:1", "Write device cuda"), ("cpu:0", "Write device cpu"), ("xpu", "take 1 worker")],
)
def test_a_device_that_workers_cant_have_one_of_each(device: str, told: str) -> None:
    with pytest.raises(ExecutorError, match=told):
        named("processes", 2).require(PlannedLoading("tiny-random:llama", device=device))


@pytest.mark.parametrize(
    "placement", [ModelPlacement(tensor_parallel=2), ModelPlacement(device_map="auto"), ModelPlacement(device_map={})]
)
def test_a_model_that_takes_several_devices_is_refused(placement: ModelPlacement) -> None:
    loading = PlannedLoading("tiny-random:llama", placement=placement)
    for executor in ("processes", "ray"):
        with pytest.raises(ExecutorError, match="spreads one model over devices"):
            named(executor, 1).require(loading)


def test_each_worker_sees_one_gpu_of_those_that_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    seen: list[Any] = []
    monkeypatch.setattr("steerkit.executors.processes.Processes.__init__", lambda self, told: seen.append(told))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    named("processes", 2).open_workers()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 6,GPU-8f")
    named("processes").open_workers("cuda")
    named("processes").open_workers("cpu")
    assert [[each.get("CUDA_VISIBLE_DEVICES") for each in told] for told in seen] == [
        ["0", "1"],
        ["4", "6", "GPU-8f"],
        [None, None],
    ]
    with pytest.raises(ExecutorError, match="take 3 at most, one for each GPU"):
        named("processes", 4).require(PlannedLoading("tiny-random:llama", device="auto"))


def test_threads_are_told_or_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert named("processes", 3).threads(None) == 2 and named("processes", 16).threads(None) == 1
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert named("processes").threads(None) == 2 and named("processes").threads(None, "cpu") == 4
    assert named("processes", 3).threads(5) == 5 and named().threads(None) is None


def test_what_is_missing_for_ray_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chosen, "find_spec", lambda name: None)
    with pytest.raises(ExecutorError, match=r"Install steerkit-torch\[ray\], or use --executor processes"):
        named("ray").require(CPU)


def test_a_run_with_an_executor_that_is_none_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text('model: {source: "tiny-random:llama", device: "cuda:1"}\n')
    with pytest.raises(UnknownNameError, match="Did you mean 'ray'"):
        run_recipe(tmp_path / "r.yaml", out=tmp_path / "runs", executor="rayy")
    assert not (tmp_path / "runs").exists()
