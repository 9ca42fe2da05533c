"""The calls that the front makes to the workers, all of which must say the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from steerkit.api.program import Program
from steerkit.api.program_bytes import program_to_bytes
from steerkit_vllm.errors import InUse, Unfit
from steerkit_vllm.programs import Loaded, Programs

_PATIENCE: Final = (0.0, 0.05, 0.2, 0.5)
"""Seconds between attempts to free."""

Rpc = Callable[[str, tuple[Any, ...]], Awaitable[Sequence[Mapping[str, Any]]]]
"""A method's name and its arguments, to what each worker answers."""


class Workers:
    """The workers of an engine, through its ``collective_rpc``.

    Args:
        programs: kept in step with what the workers hold.
        rpc: calls a method of all workers.
        pause: waits for some seconds.
    """

    def __init__(self, programs: Programs, rpc: Rpc, pause: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self.programs, self._rpc, self._pause = programs, rpc, pause

    async def load(self, name: object, program: Program) -> Loaded:
        """Load a program into every worker, and make its name known.

        Args:
            name: what requests call it by.
            program: what it is.

        Raises:
            Refused: as ``Programs.admit``.
            Unfit: where a worker has no place for it, with its reason.
        """
        loaded, new = self.programs.admit(name, program)
        if not new:
            return loaded
        told = await self._rpc("steerkit_load", (program_to_bytes(program),))
        if errors := [one["error"] for one in told if "error" in one]:
            # Of several workers some may hold it: none is to, since a request would find it at those alone.
            await self._rpc("steerkit_free", (loaded.digest,))
            self.programs.abandon(loaded)
            raise Unfit(errors[0])
        self.programs.ready(loaded)
        return loaded

    async def free(self, name: object) -> Loaded:
        """Forget a name, and free its content in every worker where no other name has it.

        Raises:
            UnknownProgram, InUse: as ``Programs.discard``; also where a worker is still running a request with it.
        """
        loaded, alone = self.programs.discard(name)
        if alone:
            errors = await self._freed(loaded.digest)
            if errors:
                # It may be gone in some of several workers: in again, so that they agree.
                await self._rpc("steerkit_load", (program_to_bytes(loaded.program),))
                self.programs.put_back(loaded)
                raise InUse(errors[0])
        return loaded

    async def _freed(self, digest: str) -> list[str]:
        """What is against freeing a content. A worker is told that a request has finished one step later."""
        errors: list[str] = []
        for wait in _PATIENCE:
            await self._pause(wait)
            told = await self._rpc("steerkit_free", (digest,))
            errors = [one["error"] for one in told if "error" in one]
            if not errors:
                break
        return errors

    async def readings(self, ticket: str) -> Mapping[str, Any]:
        """What the monitors read of the request with a ticket, once. Every worker has the whole stream: the first's."""
        told = await self._rpc("steerkit_readings", (ticket,))
        return told[0]
