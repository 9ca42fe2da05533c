"""What monitors read, put into an answer: into the one object, or as the last chunk of a stream."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from steerkit.api.program import ProgramMonitor
from steerkit_vllm.asgi import Message, Send, answer
from steerkit_vllm.programs import Loaded

DONE: Final = b"data: [DONE]"

Fetch = Callable[[], Awaitable[Mapping[str, Any]]]


def told(loaded: Loaded, found: Mapping[str, Any]) -> dict[str, Any]:
    """The object ``steer`` of an answer.

    Args:
        loaded: the request's program.
        found: what a worker answers to ``steerkit_readings``.
    """
    value: dict[str, Any] = {"program": loaded.name, "digest": loaded.digest}
    if "error" in found:
        return value | {"error": found["error"]}
    by_name = {one.name: one for one in loaded.program.monitors}
    read = found["monitors"]
    return value | {"readings": {name: _judged(by_name[name], read[name]) for name in by_name if name in read}}


def _judged(monitor: ProgramMonitor, read: Mapping[str, Any]) -> dict[str, Any]:
    values = list(read["values"])
    known = [value for value in values if value is not None]
    above = monitor.side == "above"
    peak = (max(known) if above else min(known)) if known else None
    limit = monitor.threshold
    crosses = [value is not None and (value > limit if above else value < limit) for value in values]
    return {
        "first": read["first"],
        "values": values,
        "crosses": crosses,
        "threshold": limit,
        "side": monitor.side,
        "peak": peak,
        "crossed": any(crosses),
    }


class Patient:
    """``send`` of an answer whose status waits for its first words.

    A stream is begun before vLLM looks at its request's tokens: what is refused then would come as a first event behind
    a status of 200. It becomes the error that it is.

    Args:
        send: ASGI's.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None

    async def __call__(self, message: Message) -> None:
        """As ASGI's ``send``."""
        if message["type"] == "http.response.start" and _kind(message).startswith(b"text/event-stream"):
            self._start = message
            return
        if self._start is not None and message.get("body"):
            start, self._start = self._start, None
            error = _error_in(message["body"])
            if error is not None:
                await answer(self._send, error["code"], {"error": error})
                self._send = _nowhere
                return
            await self._send(start)
        if self._start is not None and not message.get("more_body", False):
            await self._send(self._start)
            self._start = None
        if self._start is None:
            await self._send(message)


async def _nowhere(message: Message) -> None:
    """What follows an error has no reader."""


def _kind(message: Message) -> bytes:
    found: bytes = next((value for key, value in message["headers"] if key.lower() == b"content-type"), b"")
    return found


def _error_in(event: bytes) -> dict[str, Any] | None:
    """The error that a first event tells, with a status to answer with; None where it tells none."""
    if not event.startswith(b'data: {"error"'):
        return None
    error = json.loads(event[6:].split(b"\n\n")[0])["error"]
    code = error.get("code")
    return error if isinstance(code, int) and 400 <= code < 500 else None


class Attaching:
    """``send`` of an answer, to which the object ``steer`` is added.

    Args:
        send: ASGI's.
        fetch: what the answer is to hold under ``steer``; asked once, when the answer is there.
    """

    def __init__(self, send: Send, fetch: Fetch) -> None:
        self._send, self._fetch = send, fetch
        self._start: Message | None = None
        self._streamed = self._plain = False
        self._held = b""
        self._last: dict[str, Any] = {}

    async def __call__(self, message: Message) -> None:
        """As ASGI's ``send``."""
        if message["type"] == "http.response.start":
            self._plain = message["status"] != 200
            self._streamed = _kind(message).startswith(b"text/event-stream")
            if self._plain or self._streamed:
                await self._send(message)
            else:
                self._start = message
        elif message["type"] != "http.response.body" or self._plain:
            await self._send(message)
        elif self._streamed:
            await self._event(message)
        else:
            await self._whole(message)

    async def _whole(self, message: Message) -> None:
        self._held += message.get("body", b"")
        if message.get("more_body", False):
            return
        assert self._start is not None
        value = json.loads(self._held) | {"steer": await self._fetch()}
        body = json.dumps(value).encode()
        headers = [(key, value) for key, value in self._start["headers"] if key.lower() != b"content-length"]
        await self._send({**self._start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
        await self._send({**message, "body": body})

    async def _event(self, message: Message) -> None:
        """Whole events go on as they come; before the one that ends the stream goes ours."""
        *events, self._held = (self._held + message.get("body", b"")).split(b"\n\n")
        out = b""
        for event in events:
            if event.startswith(DONE):
                out += b"data: " + json.dumps(self._chunk(await self._fetch())).encode() + b"\n\n"
            elif event.startswith(b"data: {"):
                self._last = json.loads(event[6:])
            out += event + b"\n\n"
        if not message.get("more_body", False):
            out, self._held = out + self._held, b""
        if out or not message.get("more_body", False):
            await self._send({**message, "body": out})

    def _chunk(self, value: Mapping[str, Any]) -> dict[str, Any]:
        kept = {key: self._last[key] for key in ("id", "object", "created", "model") if key in self._last}
        return kept | {"choices": [], "steer": dict(value)}
