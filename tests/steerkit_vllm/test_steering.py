"""What a worker does around vLLM's own: here around one that has vLLM's methods and a model of its shape."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import steerkit
import steerkit_vllm
from steerkit.api.program import Program
from steerkit.api.program_bytes import program_to_bytes
from steerkit.errors import AttachError
from steerkit.session.model import LiveModel
from steerkit_vllm.asking import Asked
from steerkit_vllm.op import unregister
from steerkit_vllm.steering import Steering
from tests.conftest import tiny_live
from tests.steerkit_vllm.served import Row, program_for
from tests.steerkit_vllm.shaped import Shaped
from tests.steerkit_vllm.test_twin import TOLERANCE, direction, ids


class Runner:
    """The parts of vLLM's first model runner that are looked at."""

    def __init__(self, live: LiveModel) -> None:
        self.model = Shaped(live, 1)
        self.input_batch = SimpleNamespace(req_ids=[], num_computed_tokens_cpu=np.zeros(8, int))
        self.query_start_loc = SimpleNamespace(np=np.zeros(9, int))

    def get_model(self) -> Shaped:
        return self.model

    def _model_forward(self, ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.model(ids)
        return found


class Vllm:
    """A worker of vLLM's, as far as steering calls it."""

    live: LiveModel

    def __init__(self, vllm_config: Any) -> None:
        self.vllm_config = vllm_config

    def load_model(self) -> None:
        self.model_runner = Runner(self.live)

    def compile_or_warm_up_model(self) -> str:
        return "warm"

    def execute_dummy_batch(self) -> None:
        self.model_runner.model(torch.tensor([7]))

    def execute_model(self, scheduler_output: Any) -> torch.Tensor:
        batch = self.model_runner.input_batch
        ((request, tokens),) = scheduler_output.tokens.items()
        batch.req_ids = [request]
        batch.num_computed_tokens_cpu[0] = scheduler_output.computed
        self.model_runner.query_start_loc.np[1] = len(tokens)
        with torch.inference_mode():
            found: torch.Tensor = self.model_runner._model_forward(torch.tensor(tokens))
        return found


class Worker(Steering, Vllm):
    pass


def config_for(live: LiveModel, **settings: Any) -> Any:
    text = SimpleNamespace(num_hidden_layers=live.layout.n_layers, model_type=live.facts.model_type)
    model = SimpleNamespace(hf_text_config=text, dtype=torch.float32, get_hidden_size=lambda: live.layout.d_model)
    return SimpleNamespace(
        additional_config={"steerkit": settings},
        model_config=model,
        scheduler_config=SimpleNamespace(max_num_batched_tokens=64),
    )


def step(worker: Worker, request: str, tokens: list[int], params: Any = None, over: Any = (), computed: int = 0) -> Any:
    """A pass over a request; ``params`` are its extra arguments where it is new."""
    new = []
    if params is not None:
        sampling = SimpleNamespace(extra_args=params or None)
        new = [SimpleNamespace(req_id=request, sampling_params=sampling, prompt_token_ids=tokens)]
    output = SimpleNamespace(finished_req_ids=set(over), scheduled_new_reqs=new, tokens={request: tokens})
    output.computed = computed
    return worker.execute_model(output)


@pytest.fixture
def live() -> LiveModel:
    return tiny_live("llama")


@pytest.fixture
def worker(live: LiveModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.setattr(Vllm, "live", live, raising=False)
    found = Worker(config_for(live, slots=4))
    found.load_model()
    yield found
    for handle in found._handles:
        handle.remove()
    unregister(found._bank)


@pytest.fixture
def program(live: LiveModel) -> Program:
    return program_for(live, steerkit.add(direction(live, 1), coefficient=2.0, positions="prompt"))


def test_a_request_is_steered_from_its_first_pass_to_its_last(
    worker: Worker, live: LiveModel, program: Program
) -> None:
    assert worker.steerkit_load(program_to_bytes(program)) == {"digest": program.digest, "slots": 1}
    tokens, condition = ids(1, 7), steerkit.add(direction(live, 1), coefficient=2.0, positions="prompt")
    plain = step(worker, "plain", tokens, {})
    assert (plain - Row(tokens, 7).wanted(live)).abs().max() < TOLERANCE
    steered = step(worker, "a", tokens, Asked(program.digest).to_extra_args(), over={"plain"})
    assert (steered - Row(tokens, 7, condition).wanted(live)).abs().max() < TOLERANCE
    assert worker.steerkit_list()["programs"][0]["in_use"] == 1
    assert "in use" in worker.steerkit_free(program.digest)["error"]
    # What is generated lies behind the prompt.
    assert step(worker, "a", [9], computed=7).equal(step(worker, "plain", [9], {}))
    assert step(worker, "plain", tokens, {}, over={"a", "plain"}).equal(plain)
    assert worker.steerkit_free(program.digest) == {"freed": True}
    assert worker.steerkit_free(program.digest) == {"freed": False}


def test_calls_of_a_server_never_raise(worker: Worker, program: Program) -> None:
    for told in (worker.steerkit_load(b"nothing"), worker.steerkit_readings("nobody")):
        assert set(told) == {"error"} and told["error"].endswith(".")
    worker.steerkit_load(program_to_bytes(program))
    listed = worker.steerkit_list()
    assert listed == {
        "programs": [{"digest": program.digest, "name": "it", "slots": 1, "in_use": 0}],
        "slots": 4,
        "free": 3,
    }


def test_a_request_whose_program_isnt_there_ends_the_engine(worker: Worker, program: Program) -> None:
    with pytest.raises(AttachError, match="isn't loaded"):
        step(worker, "a", [7, 8], Asked(program.digest).to_extra_args())


def test_a_start_makes_sure_that_every_place_is_reached(worker: Worker) -> None:
    assert not any(worker.steerkit_state()["places"].values())
    assert worker.compile_or_warm_up_model() == "warm"
    assert all(worker.steerkit_state()["places"].values())


def test_layers_that_dont_pass_there_fail_the_start(worker: Worker) -> None:
    worker._handles[3].remove()  # as where a graph was kept that was made without it
    with pytest.raises(RuntimeError, match=r"nothing would be steered at blocks\.0\.mlp_out"):
        worker.compile_or_warm_up_model()


def test_a_pass_in_which_nothing_was_steered_ends_the_engine(worker: Worker, program: Program) -> None:
    worker.steerkit_load(program_to_bytes(program))
    for handle in worker._handles:
        handle.remove()
    assert step(worker, "plain", [7, 8], {}) is not None
    with pytest.raises(RuntimeError, match="Nothing was steered at"):
        step(worker, "a", [7, 8], Asked(program.digest).to_extra_args())


def test_graphs_that_were_kept_without_places_are_others(worker: Worker) -> None:
    assert worker.vllm_config.additional_config["steerkit_worker"]


def imported() -> dict[str, set[str]]:
    """What each file of the package imports where it begins, type checkers aside."""
    return {
        path.name: {
            name
            for node in ast.parse(path.read_text("utf-8")).body
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        for path in Path(steerkit_vllm.__file__).parent.glob("*.py")
    }


def test_it_stands_on_what_plugins_may_use() -> None:
    allowed = ("steerkit.api", "steerkit.errors", "steerkit.types", "steerkit_vllm")
    for file, names in imported().items():
        ours = {name for name in names if name.startswith("steerkit") and name != "steerkit"}
        assert all(name.startswith(allowed) for name in ours), f"{file}: {ours}"


def test_what_carries_programs_out_needs_no_vllm() -> None:
    found = {file for file, names in imported().items() if any(name.split(".")[0] == "vllm" for name in names)}
    assert "worker.py" in found
    assert not found & {f"{name}.py" for name in ("bank", "batch", "op", "places", "steering", "terms", "wrapping")}
