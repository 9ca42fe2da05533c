"""What a worker of vLLM's becomes by being steered: requests come and go, weights are filled, and a pass in which
nothing was steered where it should be ends the engine. It imports no vLLM; ``worker`` puts it together with vLLM's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import torch

from steerkit.api.program_bytes import program_from_bytes
from steerkit.errors import SteerkitError, listed
from steerkit_vllm.asking import asked_of
from steerkit_vllm.bank import Bank
from steerkit_vllm.batch import Chunk, Requests
from steerkit_vllm.places import sites_of, spots_of
from steerkit_vllm.settings import settings_of
from steerkit_vllm.wrapping import wrap

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.core.sched.output import SchedulerOutput

VERSION: Final = 1
"""Of what a graph that was compiled for a wrapped model looks like: it is part of what compiled graphs are kept by."""

FORWARD: Final = "_model_forward"
"""The method of vLLM's first model runner that it documents as the one to be overridden: its forward passes over real
requests, and not those that it makes to warm up."""


class Steering:
    """What both workers have beside vLLM's own: the bank, the requests, and the calls of a server."""

    vllm_config: VllmConfig
    model_runner: Any

    def __init__(self, vllm_config: VllmConfig, *args: Any, **kwargs: Any) -> None:
        self._settings = settings_of(vllm_config.additional_config)
        # A graph that was compiled and kept without our places must not be taken for one with them.
        vllm_config.additional_config["steerkit_worker"] = VERSION
        super().__init__(vllm_config, *args, **kwargs)  # type: ignore[call-arg]

    def load_model(self, **kwargs: Any) -> None:
        """Load the model, and wrap it before anything is compiled."""
        super().load_model(**kwargs)  # type: ignore[misc]
        model, config = self.model_runner.get_model(), self.vllm_config.model_config
        spots = spots_of(model, self._settings.streams)
        like = next(one for one in model.parameters() if one.is_floating_point())
        # Outside of inference mode, so that what is loaded later can be written.
        with torch.inference_mode(False), torch.no_grad():
            tokens = self.vllm_config.scheduler_config.max_num_batched_tokens
            self._bank = Bank(
                sites_of(spots),
                config.get_hidden_size(),
                config.hf_text_config.num_hidden_layers,
                self._settings,
                tokens,
                torch.empty(0, dtype=config.dtype, device=like.device),
            )
        self._handles = wrap(model, spots, self._bank)
        self._requests = Requests(self._bank, self._settings.readings)
        self._forward: Any = getattr(self.model_runner, FORWARD, None)
        if self._forward is None:
            raise RuntimeError(f"This vLLM's model runner has no {FORWARD}, in which weights are filled.")
        setattr(self.model_runner, FORWARD, self._steered_forward)

    def compile_or_warm_up_model(self) -> Any:
        """Warm up, and make sure that the operation ran wherever something can be steered."""
        found = super().compile_or_warm_up_model()  # type: ignore[misc]
        if self._unseen():
            self.execute_dummy_batch()  # type: ignore[attr-defined]
        if unseen := self._unseen():
            raise RuntimeError(
                f"The model was loaded, and nothing would be steered at {listed(unseen)}: its layers don't pass there."
            )
        return found

    def execute_model(self, scheduler_output: SchedulerOutput) -> Any:
        """One step of vLLM's: requests come and go, then the runner makes its pass."""
        for request in scheduler_output.finished_req_ids:
            self._requests.drop(request)
        for new in scheduler_output.scheduled_new_reqs:
            params = new.sampling_params
            self._requests.add(
                new.req_id, asked_of(None if params is None else params.extra_args), len(new.prompt_token_ids or ())
            )
        return super().execute_model(scheduler_output)  # type: ignore[misc]

    def _steered_forward(self, *args: Any, **kwargs: Any) -> Any:
        """The runner's forward pass over real requests, whose tokens lie side by side in the batch's order."""
        batch = self.model_runner.input_batch
        ends = self.model_runner.query_start_loc.np
        chunks = [
            Chunk(request, int(batch.num_computed_tokens_cpu[row]), int(ends[row + 1] - ends[row]))
            for row, request in enumerate(batch.req_ids)
        ]
        self._requests.begin(chunks)
        before = {place: place.runs for place in self._bank.places.values() if place.is_active}
        output = self._forward(*args, **kwargs)
        if self._bank.on_cpu and (unseen := [place.site for place, runs in before.items() if place.runs == runs]):
            raise RuntimeError(f"Nothing was steered at {listed([str(site) for site in unseen])}, where it should be.")
        self._requests.end(chunks)
        self._requests.rest()
        return output

    def _unseen(self) -> list[str]:
        return [str(site) for site, place in self._bank.places.items() if not place.runs]

    # What a server calls. Nothing is raised: an exception in a worker can take the engine with it.

    def steerkit_load(self, data: bytes) -> dict[str, Any]:
        """See the module."""

        def load() -> dict[str, Any]:
            found = self._bank.load(program_from_bytes(data))
            return {"digest": found.program.digest, "slots": len(found.slots)}

        return _told(load)

    def steerkit_free(self, digest: str) -> dict[str, Any]:
        """See the module."""
        return _told(lambda: {"freed": self._bank.free(digest)})

    def steerkit_list(self) -> dict[str, Any]:
        """See the module."""
        programs = [
            {"digest": digest, "name": one.program.name, "slots": len(one.slots), "in_use": len(one.users)}
            for digest, one in self._bank.loaded.items()
        ]
        return {"programs": programs, "slots": self._settings.slots, "free": len(self._bank.free_slots)}

    def steerkit_state(self) -> dict[str, Any]:
        """See the module."""
        config = self.vllm_config.model_config
        return {
            "places": {str(site): place.runs for site, place in self._bank.places.items()},
            "model_type": config.hf_text_config.model_type,
            "d_model": self._bank.width,
            "n_layers": self._bank.n_layers,
            "version": VERSION,
        }

    def steerkit_readings(self, tag: str) -> dict[str, Any]:
        """See the module."""
        return _told(lambda: {"monitors": self._requests.take_readings(tag)})


def _told(call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return call()
    except SteerkitError as error:
        return {"error": str(error)}
