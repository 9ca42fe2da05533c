"""The few pieces of ASGI that are needed to read a request and to answer it, without a framework."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from steerkit_vllm.errors import Refused

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class TooLargeError(Refused):
    """A body that is larger than it may be."""

    status = 413
    kind = "RequestEntityTooLargeError"


class GoneError(Exception):
    """The client hung up before its request was there."""


async def read_body(receive: Receive, most: int | None = None) -> bytes:
    """The whole body.

    Args:
        receive: ASGI's.
        most: bytes; None for any number.

    Raises:
        TooLargeError: for more than that.
        GoneError: where the client hung up.
    """
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise GoneError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if most is not None and size > most:
            raise TooLargeError(f"The body has more than {most:,} bytes.")
        if not message.get("more_body", False):
            return b"".join(parts)


def replayed(body: bytes, receive: Receive) -> Receive:
    """``receive`` as if nobody had read the body yet."""
    told = False

    async def again() -> Message:
        nonlocal told
        if not told:
            told = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return again


def header(scope: Scope, name: bytes) -> str:
    """A header of a request, or the empty text."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name), "")


def with_length(scope: Scope, length: int) -> Scope:
    """A request's scope with the length of another body."""
    kept = [(key, value) for key, value in scope["headers"] if key.lower() != b"content-length"]
    return {**scope, "headers": [*kept, (b"content-length", str(length).encode())]}


async def answer(send: Send, status: int, value: Any) -> None:
    """Answer with JSON."""
    body = json.dumps(value).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def refuse(send: Send, error: Refused) -> None:
    """Answer with an error, in the form of OpenAI's."""
    told = {"message": str(error), "type": error.kind, "param": None, "code": error.status}
    await answer(send, error.status, {"error": told})
