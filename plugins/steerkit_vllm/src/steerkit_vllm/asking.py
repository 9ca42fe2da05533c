"""What a request says of its steering: which program, by the hash of its content, and where its turns lie.

It travels as ``SamplingParams(extra_args={"steerkit": {...}})``, which vLLM hands on to the worker untouched. A request
without the key is a plain one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from steerkit.api.program_tokens import Turn
from steerkit.errors import AttachError
from steerkit.types import PREFIX, TURNS

KEY: Final = "steerkit"
ASKED: Final = "steer"
"""What a user writes: a field of an HTTP request, a key of ``vllm_xargs`` or of ``SamplingParams.extra_args``. The gate
puts ``KEY`` in its place."""
ROLES: Final = (*TURNS, PREFIX)


@dataclass(frozen=True)
class Asked:
    """How a request is steered.

    Args:
        program: hash of the program's content (``Program.digest``), 64 hex digits.
        turns: of the prompt's conversation, in order; needed where the program's positions name turns (``user[-1]``,
            ``instruction``). A role is one of ``steerkit.types.TURNS``, or ``answer_prefix``.
        read: the tag under which the readings of the program's monitors are kept, for ``steerkit_readings``; empty:
            none are. A name of the server's own for the request (vLLM's id of it is another one in a worker). Requests
            that vLLM makes several of (``n`` above 1) can't share one.
    """

    program: str
    turns: tuple[Turn, ...] = ()
    read: str = ""

    def to_extra_args(self) -> dict[str, Any]:
        """As ``SamplingParams.extra_args`` has it: plain values."""
        return {KEY: {"program": self.program, "turns": [list(turn) for turn in self.turns], "read": self.read}}


def asked_of(extra_args: Mapping[str, Any] | None) -> Asked | None:
    """What a request asks for; None for a plain one.

    Raises:
        AttachError: for a value that isn't what ``to_extra_args`` gave, or a name that nobody has looked up.
    """
    if extra_args is not None and ASKED in extra_args:
        raise AttachError(
            f"A request asks for a program by name ({ASKED!r}), and passed no gate that knows names. Start the engine "
            "with python -m steerkit_vllm.serve or as steerkit_vllm.offline.SteeredLLM."
        )
    if extra_args is None or KEY not in extra_args:
        return None
    value = extra_args[KEY]
    try:
        if set(value) - {"program", "turns", "read"}:
            raise ValueError(f"unknown keys {sorted(set(value) - {'program', 'turns', 'read'})}")
        program, read = value["program"], value.get("read", "")
        turns = tuple((role, start, stop) for role, start, stop in value.get("turns", ()))
        if not isinstance(program, str) or not isinstance(read, str):
            raise ValueError("program and read are texts")
        for role, start, stop in turns:
            if role not in ROLES or type(start) is not int or type(stop) is not int or not 0 <= start <= stop:
                raise ValueError(f"a turn is a role with the first and last of its tokens, not {[role, start, stop]}")
    except (TypeError, ValueError, KeyError) as error:
        raise AttachError(f"A request's extra argument {KEY!r} can't be read ({error}).") from None
    return Asked(program, turns, read)
