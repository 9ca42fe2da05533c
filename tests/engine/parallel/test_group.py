"""Who runs a model together: told by the environment, and refused in words that say how to start the processes."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from steerkit.engine.lowering.foldable import why_not_foldable
from steerkit.engine.parallel import group
from steerkit.engine.parallel.cutting import require_no_stages, require_plan
from steerkit.engine.parallel.group import Launched, first_tells, launched, require_processes, seconds_to_wait, torchrun
from steerkit.engine.parallel.shards import is_sharded, mesh_of, whole
from steerkit.engine.tiny.models import tiny_model
from steerkit.errors import ModelError, ParallelError, UnsupportedModelError
from steerkit.executors.chosen import named
from steerkit.executors.ranks import ranks
from steerkit.plan.planned.model import PlannedLoading
from steerkit.session import wrap
from steerkit.types.placement import ModelPlacement


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", group.LIMIT):
        monkeypatch.delenv(name, raising=False)


def told(monkeypatch: pytest.MonkeyPatch, rank: str, world: str) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)


def test_a_process_alone_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched() is None
    told(monkeypatch, "0", "1")
    assert launched() is None
    with ranks(named()) as here:
        assert not here.follows and here.by == named()


def test_what_torchrun_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, "2", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert launched() == Launched(2, 3, 1)
    assert require_processes(3) == Launched(2, 3, 1)


@pytest.mark.parametrize("rank, world", [("3", "3"), ("-1", "3"), ("one", "3")])
def test_what_torchrun_never_tells(monkeypatch: pytest.MonkeyPatch, rank: str, world: str) -> None:
    told(monkeypatch, rank, world)
    with pytest.raises(ParallelError, match=f"RANK={rank} and WORLD_SIZE={world}"):
        launched()


def test_the_command_that_starts_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/steerkit", "run", "my recipe.yaml", "--set", "seed=1"])
    command = "torchrun --nproc-per-node 3 -m steerkit run 'my recipe.yaml' --set seed=1"
    assert torchrun(3) == command
    with pytest.raises(ParallelError, match="this is one process") as refused:
        require_processes(3)
    assert str(refused.value).endswith(f"Start it as: {command}")
    told(monkeypatch, "0", "2")
    with pytest.raises(ParallelError, match="torchrun started 2 processes"):
        require_processes(3)
    monkeypatch.setattr(sys, "argv", ["study.py", "a"])
    assert torchrun(2) == "torchrun --nproc-per-node 2 study.py a"


@pytest.mark.parametrize("seconds", ["soon", "0", "-1", "inf"])
def test_a_time_limit_is_a_number_of_seconds(monkeypatch: pytest.MonkeyPatch, seconds: str) -> None:
    assert seconds_to_wait() == group.SECONDS
    monkeypatch.setenv(group.LIMIT, seconds)
    with pytest.raises(ParallelError, match=group.LIMIT):
        seconds_to_wait()


def test_a_cut_model_needs_its_processes() -> None:
    loading = PlannedLoading("tiny-random:llama", placement=ModelPlacement(tensor_parallel=3))
    with pytest.raises(ParallelError, match="torchrun --nproc-per-node 3"):
        named().require(loading)


def test_heads_that_do_not_come_out_even() -> None:
    config = tiny_model("llama", d_model=48, num_attention_heads=6, num_key_value_heads=3).config
    require_plan(3, config, "it")
    with pytest.raises(ModelError, match="it has 3 key and value heads, which 2 processes can't share evenly"):
        require_plan(2, config, "it")
    with pytest.raises(ModelError, match="no plan"):
        require_plan(2, tiny_model("gpt2").config, "it")


def test_stages_of_a_pipeline_are_refused() -> None:
    model = tiny_model("llama")
    model.config.distributed_config = SimpleNamespace(pp_size=2)
    with pytest.raises(UnsupportedModelError, match="2 pipeline stages: a process has some of its blocks"):
        require_no_stages(model)
    with pytest.raises(UnsupportedModelError, match="pipeline stages"):
        wrap(model)


def test_a_process_alone_has_all_of_a_model_and_asks_itself() -> None:
    model = tiny_model("llama")
    weight = next(iter(model.parameters()))
    assert not is_sharded(weight) and whole(weight) is weight and mesh_of(model) is None
    assert first_tells(lambda: 5) == 5


def test_why_somebody_elses_modules_do_not_fold() -> None:
    from accelerate import cpu_offload
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    def why(module: Any) -> str:
        return why_not_foldable(module, "a", nn.ModuleDict({"a": module}))

    replaced: Any = nn.Linear(2, 2)
    replaced.forward = lambda x: x
    assert why(replaced) == "somebody replaced the forward of a"
    placed = add_hook_to_module(nn.Linear(2, 2), AlignDevicesHook(execution_device="cpu"))
    assert why(placed) == "accelerate runs a on a device of its own choice"
    offloaded = cpu_offload(nn.Sequential(nn.Linear(2, 2)), execution_device=torch.device("cpu"))
    assert why(offloaded[0]) == "accelerate brings the weights of a when it runs (offloaded)"
    assert why(nn.Linear(2, 2)) == ""
