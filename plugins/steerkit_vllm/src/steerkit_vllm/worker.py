"""The worker: vLLM's own, whose model is ready to be steered before it is compiled.

A server calls it through ``collective_rpc(name, args=...)``. No call raises: an exception in a worker can take the
engine with it, so what is wrong comes back as ``{"error": "one sentence"}``.

``steerkit_load(data: bytes) -> {"digest": str, "slots": int} | {"error": str}``
    a program file's bytes; the same content again is no second copy. Refused, in words: no program, another model's
    width or depth, a place that isn't prepared, more directions than there are rows left, positions that need text
    (``from_token(...)``), no free slot.
``steerkit_free(digest: str) -> {"freed": bool} | {"error": str}``
    refused while a request of this worker uses it.
``steerkit_list() -> {"programs": [{"digest", "name", "slots", "in_use"}], "slots": int, "free": int}``
``steerkit_state() -> {"places": {site: runs}, "model_type", "d_model", "n_layers", "version"}``
    the handshake: how often the operation ran at each place. A place that never ran fails the engine's start.
``steerkit_readings(tag: str) -> {"monitors": {name: {"first": int, "values": [float | None]}}} | {"error": str}``
    of a request that asked for them under a tag (``Asked.read``), once: they are dropped then. ``values`` are by place
    in the sequence from ``first`` on; None where a token isn't among the monitor's positions or was taken from the
    prefix cache and so not read. The last token that was generated never passed the model, and has none. Kept for
    ``Settings.readings`` finished requests, the oldest dropped.

A request (see ``asking``) whose program isn't loaded stops the engine: it would be served unsteered otherwise. A server
checks with ``asked_of`` and the programs that it has loaded, and counts who uses them, before it hands a request on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.v1.worker.cpu_worker import CPUWorker
from vllm.v1.worker.gpu_worker import Worker

from steerkit_vllm.refusals import require_engine
from steerkit_vllm.steering import Steering

if TYPE_CHECKING:
    from vllm.config import VllmConfig


class SteeredWorker(Steering, Worker):
    """vLLM's worker for GPUs, steered."""

    def __init__(self, vllm_config: VllmConfig, *args: Any, **kwargs: Any) -> None:
        require_engine(vllm_config)
        super().__init__(vllm_config, *args, **kwargs)


class SteeredCPUWorker(Steering, CPUWorker):
    """vLLM's worker for CPUs, steered."""

    def __init__(self, vllm_config: VllmConfig, *args: Any, **kwargs: Any) -> None:
        require_engine(vllm_config)
        super().__init__(vllm_config, *args, **kwargs)
