"""What a request's body says of steering, and the body as vLLM is to read it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from steerkit.api.program_tokens import needs_turns
from steerkit_vllm.asking import ASKED
from steerkit_vllm.conversing import Conversations
from steerkit_vllm.errors import Refused, Unfit
from steerkit_vllm.fitting import positions_of
from steerkit_vllm.gate import TICKET, TURNS
from steerkit_vllm.programs import DIGEST, Loaded

COMPLETIONS: Final = "/v1/completions"
CHAT: Final = "/v1/chat/completions"
SERVED: Final = (COMPLETIONS, CHAT)


@dataclass(frozen=True)
class Wish:
    """What a request asks for.

    Args:
        program: a name, or ``sha256:`` and a digest.
        readings: whether the answer is to hold what the program's monitors read.
    """

    program: str
    readings: bool = False


def wish_of(body: Mapping[str, Any]) -> Wish | None:
    """What a request's body asks for; None for a plain one.

    It stands in the field ``steer`` or in ``vllm_xargs``: a program's name, or ``{"program": NAME, "readings": true}``.

    Raises:
        Refused: for anything else, or for both places at once.
    """
    beside = body.get("vllm_xargs")
    beside = beside if isinstance(beside, dict) else {}
    sampling = body.get("sampling_params")
    deeper = sampling.get("extra_args") if isinstance(sampling, dict) else None
    if isinstance(deeper, dict) and ASKED in deeper:
        # Nobody would count it as running, and its program could be freed before a worker sees it.
        raise Refused(f"Steered requests are served at {' and '.join(SERVED)}, not by sampling_params.")
    if TICKET in beside or TURNS in beside:
        raise Refused(f"Ask with {ASKED!r}: a name, or {{'program': NAME, 'readings': true}}. The server finds turns.")
    told = [place[ASKED] for place in (body, beside) if place.get(ASKED) is not None]
    if not told:
        return None
    if len(told) > 1:
        raise Refused(f"{ASKED!r} is both a field and in vllm_xargs. Leave one of them out.")
    value = told[0]
    if isinstance(value, str):
        return Wish(value)
    if isinstance(value, dict) and isinstance(value.get("program"), str):
        readings = value.get("readings", False)
        if isinstance(readings, bool) and set(value) <= {"program", "readings"}:
            return Wish(value["program"], readings)
    raise Refused(f"{ASKED!r} is a program's name, or {{'program': NAME, 'readings': true or false}}; not {value!r}.")


def body_for(
    body: Mapping[str, Any],
    path: str,
    wish: Wish,
    loaded: Loaded,
    ticket: str | None = None,
    conversations: Conversations | None = None,
) -> dict[str, Any]:
    """The body as vLLM reads it: the program goes along in ``vllm_xargs``, by content.

    Args:
        body: as it came.
        path: of the endpoint.
        wish: what it asks for.
        loaded: the program.
        ticket: for its readings, where they are asked for.
        conversations: finds turns, where the program names any.

    Raises:
        Refused, Unfit: for what can't be steered.
    """
    if body.get("use_beam_search"):
        raise Refused(f"Beams aren't steered. Leave out use_beam_search or {ASKED!r}.")
    if body.get("kv_transfer_params"):
        raise Refused("A steered request's cache isn't handed to another engine. Leave kv_transfer_params out.")
    told = {key: value for key, value in body.items() if key != ASKED}
    if wish.readings:
        _check_readings(told, path, loaded)
    if (prompt := loaded.program.system_prompt) is not None:
        told = _with_system_prompt(told, path, prompt, loaded.name)
    extra = dict(told.get("vllm_xargs") or {}) | {ASKED: f"{DIGEST}{loaded.digest}"}
    if path == CHAT and conversations is not None and any(map(needs_turns, positions_of(loaded.program))):
        extra[TURNS] = conversations.turns(told)
    told["vllm_xargs"] = extra if ticket is None else extra | {TICKET: ticket}
    return told


def _check_readings(body: Mapping[str, Any], path: str, loaded: Loaded) -> None:
    if not loaded.program.monitors:
        raise Unfit(f"Program {loaded.name!r} has no monitor. Export it again with --monitor NAME.")
    n = body.get("n")
    prompts = body.get("prompt")
    several = isinstance(prompts, list) and len(prompts) > 1 and not all(isinstance(one, int) for one in prompts)
    if (n is not None and n != 1) or (path == COMPLETIONS and several):
        raise Refused("Readings come with one completion each: send one prompt per request, and leave n at 1.")


def _with_system_prompt(body: Mapping[str, Any], path: str, prompt: str, name: str) -> dict[str, Any]:
    if path != CHAT:
        raise Unfit(
            f"Program {name!r} was measured behind a system prompt, which can't be put before a raw prompt. Ask at "
            f"{CHAT}."
        )
    messages = body.get("messages")
    if not isinstance(messages, list):
        return dict(body)  # vLLM says what is wrong with it
    own = [
        one.get("content") for one in messages if isinstance(one, dict) and one.get("role") in ("system", "developer")
    ]
    if own == [prompt]:
        return dict(body)
    if own:
        raise Refused(f"Program {name!r} brings a system prompt of its own. Leave yours out.")
    return {**body, "messages": [{"role": "system", "content": prompt}, *messages]}


def parsed(content: bytes) -> dict[str, Any] | None:
    """A body that may ask for steering; None where it can't, or where vLLM says what is wrong with it."""
    # A text in JSON may be written with escapes, or in UTF-16 or UTF-32, which the server's own reader knows too.
    if not any(mark in content for mark in (ASKED.encode(), b"\\u", b"\x00")):
        return None
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
