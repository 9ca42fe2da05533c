"""The doors of the HTTP server: who may ask for steering where, and the programs that can be loaded while it serves.

It stands inside of vLLM's own middleware (whoever isn't authorised never comes here) and around its endpoints, as a
piece of ASGI that needs no framework. Steered requests are served at two endpoints; at every other one that would
leave the wish unheard it is refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote
from uuid import uuid4

from steerkit.api.program import Program
from steerkit.api.program_bytes import program_from_bytes, read_program
from steerkit.errors import ArtifactError
from steerkit_vllm.asgi import (
    App,
    GoneError,
    Receive,
    Scope,
    Send,
    answer,
    header,
    read_body,
    refuse,
    replayed,
    with_length,
)
from steerkit_vllm.attached import Attaching, Patient, told
from steerkit_vllm.conversing import Conversations
from steerkit_vllm.errors import Forbidden, Refused
from steerkit_vllm.gate import Gate
from steerkit_vllm.programs import Loaded
from steerkit_vllm.wording import SERVED, body_for, parsed, wish_of
from steerkit_vllm.workers import Workers

PROGRAMS: Final = "/v1/steer/programs"
MOST_BYTES: Final = 256 * 2**20
"""Of an uploaded program: an update of rank 4 at each of 160 blocks of width 16,384 has 84 MB."""


class Doors:
    """vLLM's endpoints with steering.

    Args:
        app: vLLM's.
        gate: the engine's.
        workers: the engine's.
        folder: from which programs may be loaded by the name of a file; None: from none.
        uploads: whether a client may send a program's bytes.
        conversations: finds turns in messages; None: nobody does.
    """

    def __init__(
        self,
        app: App,
        *,
        gate: Gate,
        workers: Workers,
        folder: Path | None = None,
        uploads: bool = False,
        conversations: Conversations | None = None,
    ) -> None:
        self.app, self.gate, self.workers = app, gate, workers
        self.folder = None if folder is None else folder.resolve()
        self.uploads, self.conversations = uploads, conversations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's entry."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/")
        try:
            if path == PROGRAMS or path.startswith(f"{PROGRAMS}/"):
                await self._programs(scope, path, receive, send)
            elif scope["method"] == "POST" and "json" in header(scope, b"content-type").lower():
                await self._request(scope, path, receive, send)
            else:
                await self.app(scope, receive, send)
        except Refused as error:
            await refuse(send, error)
        except GoneError:
            return

    async def _request(self, scope: Scope, path: str, receive: Receive, send: Send) -> None:
        content = await read_body(receive)
        body = parsed(content)
        wish = None if body is None else wish_of(body)
        if body is None or wish is None:
            await self.app(scope, replayed(content, receive), send)
            return
        if path not in SERVED:
            raise Refused(f"Steered requests are served at {' and '.join(SERVED)}, not at {path}.")
        with self.gate.programs.use(wish.program) as loaded:
            ticket = uuid4().hex if wish.readings else None
            content = json.dumps(body_for(body, path, wish, loaded, ticket, self.conversations)).encode()
            answered: Send = Patient(send)
            if ticket is not None:
                answered = Attaching(answered, lambda: self._read(ticket, loaded))
            await self.app(with_length(scope, len(content)), replayed(content, receive), answered)

    async def _read(self, ticket: str, loaded: Loaded) -> dict[str, Any]:
        return told(loaded, await self.workers.readings(ticket))

    async def _programs(self, scope: Scope, path: str, receive: Receive, send: Send) -> None:
        name, method = unquote(path[len(PROGRAMS) + 1 :]), scope["method"]
        programs = self.gate.programs
        if method == "GET" and not name:
            data = [self._listed(one) for one in programs]
            await answer(send, 200, {"object": "list", "data": data, "most": programs.most, "room": programs.room})
        elif method == "GET":
            await answer(send, 200, self._listed(programs.named(name)))
        elif method == "POST" and not name:
            called, program = await self._sent(scope, receive)
            loaded = await self.workers.load(called, program)
            await answer(send, 201, self._listed(loaded))
        elif method == "DELETE" and name:
            loaded = await self.workers.free(name)
            await answer(send, 200, {"id": loaded.name, "object": "steer.program", "deleted": True})
        else:
            error = Refused(f"{method} isn't served at {path}.")
            error.status, error.kind = 405, "MethodNotAllowedError"
            raise error

    def _listed(self, loaded: Loaded) -> dict[str, Any]:
        measured = self.conversations and self.conversations.is_measured(loaded.program)
        return loaded.to_json() | {"chat_template_as_measured": measured}

    async def _sent(self, scope: Scope, receive: Receive) -> tuple[object, Program]:
        """A program that a client sends or names, and the name that it is to have."""
        content = await read_body(receive, MOST_BYTES)
        asked = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        try:
            if "json" not in header(scope, b"content-type").lower():
                if not self.uploads:
                    raise Forbidden("This server takes no uploads. Start it with --program-uploads, or load a file.")
                program = program_from_bytes(content, "the body")
                return asked.get("name", [program.name])[-1], program
            body = json.loads(content)
            if not isinstance(body, dict) or set(body) - {"name", "file"} or not isinstance(body.get("file"), str):
                raise Refused('Name a program with {"name": NAME, "file": FILE}, or send its bytes.')
            program = read_program(self._allowed(body["file"]))
            return body.get("name", program.name), program
        except (ValueError, RecursionError):
            raise Refused("The body is no JSON. A program's bytes are application/octet-stream.") from None
        except ArtifactError as error:
            raise Refused(str(error)) from None

    def _allowed(self, file: str) -> Path:
        if self.folder is None:
            raise Forbidden("This server loads no files. Start it with --program-folder FOLDER.")
        path = (self.folder / file).resolve()
        if not path.is_relative_to(self.folder):
            raise Forbidden(f"{file!r} is outside of the folder from which programs may be loaded.")
        return path
