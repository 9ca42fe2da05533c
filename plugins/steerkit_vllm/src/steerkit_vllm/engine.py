"""vLLM's front with the gate in it: every request, from whatever endpoint or call, passes ``process_inputs``."""

from __future__ import annotations

from typing import Any

from vllm.exceptions import VLLMNotFoundError, VLLMValidationError
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.input_processor import InputProcessor

from steerkit_vllm.errors import Refused, UnknownProgram
from steerkit_vllm.gate import Gate


class SteeredInputProcessor(InputProcessor):
    """vLLM's own, behind which the gate seals what comes out.

    Args:
        vllm_config: the engine's.
        renderer: the engine's.
        gate: seals requests.
    """

    def __init__(self, vllm_config: Any, renderer: Any, gate: Gate) -> None:
        self.gate = gate
        super().__init__(vllm_config, renderer)

    def process_inputs(self, *args: Any, **kwargs: Any) -> EngineCoreRequest:
        """As vLLM's. Raises its own errors, which its servers answer with 4xx, for what the gate refuses."""
        request = super().process_inputs(*args, **kwargs)
        try:
            self.gate.seal(request, grows=request.resumable)
        except Refused as error:
            raise _as_vllm(error) from None
        return request


def _as_vllm(error: Refused) -> Exception:
    kind: type[Exception] = VLLMNotFoundError if isinstance(error, UnknownProgram) else VLLMValidationError
    return kind(str(error))
