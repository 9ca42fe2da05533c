"""``vllm.LLM`` with steering: batches in this process's hands, without a server."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from vllm import LLM

from steerkit.api.program import Program
from steerkit.api.program_bytes import read_program
from steerkit_vllm.engine import SteeredInputProcessor
from steerkit_vllm.fitting import Served
from steerkit_vllm.gate import Gate
from steerkit_vllm.programs import Loaded, Programs
from steerkit_vllm.starting import engine_settings, folder_of, require_alone
from steerkit_vllm.workers import Workers

ResultT = TypeVar("ResultT")


class SteeredLLM(LLM):
    """As ``vllm.LLM``; a request names its program in its parameters.

    ``SamplingParams(extra_args={"steer": "warm"})`` steers with the program ``warm``. With
    ``{"steer": "warm", "steer_readings": TEXT}`` what its monitors read is told by ``readings(TEXT)`` afterwards, once;
    the text is another one for each request. Programs that act at turns need ``"steer_turns":
    [role, start, stop, ...]`` beside it, as ``steerkit.conversation_tokens`` finds them.

    Args:
        model: as ``vllm.LLM``, or a model in steerkit's cache, as in recipes.
        programs: by name, each a ``Program`` or the path of a file.
        max_programs: how many there is room for.
        **kwargs: as ``vllm.LLM``.

    Raises:
        SteerkitError: for an engine that can't be steered, or a program that can't be loaded.
    """

    def __init__(
        self,
        model: str,
        *,
        programs: Mapping[str, Program | str | Path] | None = None,
        max_programs: int = 16,
        **kwargs: Any,
    ) -> None:
        require_alone(kwargs)
        kwargs["worker_cls"], kwargs["additional_config"] = engine_settings(
            kwargs.pop("worker_cls", "auto"), kwargs.pop("additional_config", None), max_programs
        )
        super().__init__(folder_of(model), **kwargs)
        self.programs = Programs(max_programs, Served.of(self.collective_rpc("steerkit_state")).check)
        self._workers = Workers(self.programs, self._rpc, pause=_pause)
        engine = self.llm_engine
        engine.input_processor = self.input_processor = SteeredInputProcessor(
            engine.vllm_config, engine.renderer, Gate(self.programs)
        )
        for name, program in (programs or {}).items():
            self.load_program(name, program)

    def load_program(self, name: str, program: Program | str | Path) -> Loaded:
        """Load a program under a name. Raises as ``Workers.load``."""
        return _now(self._workers.load(name, program if isinstance(program, Program) else read_program(program)))

    def free_program(self, name: str) -> Loaded:
        """Forget a name, and free its content where no other name has it. Raises as ``Workers.free``."""
        return _now(self._workers.free(name))

    def readings(self, tag: str) -> dict[str, Any]:
        """What monitors read of the request that had this tag, once: by monitor ``{"first", "values"}``, the place of
        the first token and a number, or None, for each from there on; or ``{"error": why not}``."""
        found = dict(_now(self._workers.readings(tag)))
        monitors: dict[str, Any] = found.get("monitors", found)
        return monitors

    async def _rpc(self, method: str, args: tuple[Any, ...]) -> Any:
        return self.collective_rpc(method, args=args)


async def _pause(seconds: float) -> None:
    time.sleep(seconds)


def _now(told: Coroutine[Any, Any, ResultT]) -> ResultT:
    """What a coroutine that waits for nobody returns, also within a loop of somebody else's (a notebook's)."""
    try:
        told.send(None)
    except StopIteration as end:
        result: ResultT = end.value
        return result
    told.close()
    raise RuntimeError("It waits for something.")
