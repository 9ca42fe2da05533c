"""A server without vLLM: an application that tells what reached it, and workers that do as they are told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from steerkit.api.program import Program, ProgramModel, ProgramMonitor, ProgramUpdate
from steerkit.types import Positions, Site
from steerkit_vllm.doors import Doors
from steerkit_vllm.fitting import Served
from steerkit_vllm.gate import Gate
from steerkit_vllm.programs import Programs
from steerkit_vllm.workers import Workers

MODEL = ProgramModel("llama", 4, 8)
STATE = {"model_type": "llama", "n_layers": 4, "d_model": 8, "places": {f"blocks.{i}.resid_post": 1 for i in range(4)}}
Answer = tuple[int, Any]


def program(name: str = "warm", value: float = 1.0, positions: str = "all", **kwargs: Any) -> Program:
    model = kwargs.pop("model", MODEL)
    update = ProgramUpdate(
        Site("resid_post", kwargs.pop("layer", 1)), bias=torch.full((model.d_model,), value),
        positions=Positions.parse(positions),
    )  # fmt: skip
    return Program(name, model, (update,), **kwargs)


def watched(name: str = "watched") -> Program:
    return program(name, 2.0, monitors=(ProgramMonitor("told", {Site("resid_post", 2): torch.eye(8)[0]}, 1.5),))


def request(ids: Sequence[int] = (1, 2, 3), salt: str | None = None, **extra: Any) -> Any:
    params = SimpleNamespace(extra_args=extra or None, n=1, skip_reading_prefix_cache=None)
    return SimpleNamespace(
        prompt_token_ids=list(ids), prompt_embeds=None, mm_features=None, cache_salt=salt, sampling_params=params,
        pooling_params=None,
    )  # fmt: skip


class Front:
    """Doors, gate and programs around an application of the test's own.

    Args:
        most: programs that there is room for.
        reply: events or an object that the application answers with; by default what reached it.
        kwargs: of the doors.
    """

    def __init__(self, most: int = 3, reply: Callable[[Any], Any] | None = None, **kwargs: Any) -> None:
        self.programs = Programs(most, Served.of([STATE]).check)
        self.gate, self.reply = Gate(self.programs), reply or (lambda body: {"body": body})
        self.calls: list[str] = []
        self.refuse: dict[str, str] = {}
        self.workers = Workers(self.programs, self._rpc, _no_pause)
        self.doors = Doors(self._app, gate=self.gate, workers=self.workers, **kwargs)

    def load(self, *programs: Program) -> Front:
        for one in programs:
            asyncio.run(self.workers.load(one.name, one))
        return self

    async def _rpc(self, method: str, args: tuple[Any, ...]) -> Any:
        self.calls.append(method.removeprefix("steerkit_"))
        if self.calls[-1] in self.refuse:
            return [{}, {"error": self.refuse[self.calls[-1]]}]
        return [{"monitors": {"told": {"first": 1, "values": [1.0, None, 2.0]}}}, {}]

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        content = (await receive())["body"]
        length = next(value for key, value in scope["headers"] if key == b"content-length")
        assert int(length) == len(content)
        found = self.reply(json.loads(content))
        events = found if isinstance(found, list) else None
        kind = b"application/json" if events is None else b"text/event-stream; charset=utf-8"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        parts = [json.dumps(found).encode()] if events is None else [event.encode() for event in events]
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def raw(self, method: str, path: str, content: bytes = b"", kind: str = "application/json") -> tuple[int, bytes]:
        """The status and the body of an answer."""
        path, _, query = path.partition("?")
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(content)).encode())]
        scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": headers}
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(self.doors(scope, receive, send))
        return sent[0]["status"], b"".join(one.get("body", b"") for one in sent[1:])

    def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """The status and the object of an answer."""
        status, content = self.raw(method, path, b"" if body is None else json.dumps(body).encode())
        return status, json.loads(content)

    def post(self, path: str = "/v1/completions", **body: Any) -> Answer:
        return self.ask("POST", path, {"prompt": "x"} | body)


async def _no_pause(seconds: float) -> None:
    return None


def saved(folder: Path, one: Program) -> str:
    from steerkit.api.program_bytes import program_to_bytes

    (folder / f"{one.name}.safetensors").write_bytes(program_to_bytes(one))
    return f"{one.name}.safetensors"
