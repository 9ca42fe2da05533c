"""The one gate between requests and the engine: it names the program by content, and salts the cache.

Blocks of the KV cache are shared between requests whose tokens agree. A steered request's keys and values are other
ones, so they are kept apart by ``cache_salt``: a hash of the program's content, and of the whole prompt where what it
does to a token depends on the token's place. A plain request is left exactly as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Protocol

from steerkit.api.program import Program
from steerkit.api.program_tokens import Turn, spans_of
from steerkit.errors import AttachError, PositionError
from steerkit_vllm.asking import ASKED, KEY, Asked, asked_of
from steerkit_vllm.conversing import fingerprint
from steerkit_vllm.errors import Refused
from steerkit_vllm.fitting import positions_of
from steerkit_vllm.programs import Programs

TICKET: Final = "steer_readings"
"""Beside it: a text of the asker's own, by which the request's readings are fetched when it has finished."""

TURNS: Final = "steer_turns"
"""Beside it: where the turns of the prompt's conversation lie, as role, start and stop of each, one after the other.
Before them may stand a fingerprint of the tokens for which that holds."""

SALT: Final = "steerkit-"
"""What the salts of steered requests begin with, and no user's own."""


class EngineRequest(Protocol):
    """What is used of vLLM's ``EngineCoreRequest``."""

    prompt_token_ids: list[int] | None
    prompt_embeds: Any
    mm_features: Any
    cache_salt: str | None
    sampling_params: Any
    pooling_params: Any


def salt_of(digest: str, own: str | None, prompt: Sequence[int] | None, turns: Sequence[Turn] = ()) -> str:
    """The salt of a steered request.

    Args:
        digest: of the program.
        own: the salt that the request brings itself.
        prompt: its tokens, where what is done to one depends on its place; None where it doesn't.
        turns: where its turns lie, which matters where places do.
    """
    # Lengths are in it, so that no part can be taken for the end of the part before it.
    parts = [digest, "" if own is None else f"own {len(own)} {own}"]
    parts += [] if prompt is None else [f"prompt {len(prompt)} {','.join(map(str, prompt))}", f"turns {list(turns)}"]
    return SALT + sha256("\n".join(parts).encode(errors="surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Gate:
    """Seals requests on their way to the engine.

    Args:
        programs: what may be asked for.
    """

    programs: Programs

    def seal(self, request: EngineRequest, *, grows: bool = False) -> None:
        """Make a request one that workers obey, and that shares its cache with its like only.

        Args:
            request: changed in place; its parameters are the engine's own copy.
            grows: whether more prompt may come later.

        Raises:
            Refused: for a program that isn't loaded, or a request that can't be steered.
        """
        params = request.sampling_params
        extra = dict((params.extra_args if params is not None else request.pooling_params.extra_kwargs) or {})
        if KEY in extra:
            raise Refused(f"{KEY!r} is what the server tells its workers; ask for a program with {ASKED!r}.")
        asked, ticket, told = extra.pop(ASKED, None), extra.pop(TICKET, None), extra.pop(TURNS, None)
        if asked is None:
            if ticket is not None or told is not None:
                raise Refused(f"{TICKET if ticket is not None else TURNS!r} needs a program; name it with {ASKED!r}.")
            if request.cache_salt is not None and request.cache_salt.startswith(SALT):
                raise Refused(f"cache_salt may not begin with {SALT!r}: such salts keep steered requests apart.")
            return
        if params is None:
            raise Refused(f"{ASKED!r} can't be served here: only requests that generate text are steered or read.")
        if grows or request.prompt_embeds is not None or request.mm_features or request.prompt_token_ids is None:
            raise Refused("A steered request has one prompt of text or token ids, all of it from the beginning.")
        if ticket is not None and params.n > 1:
            raise Refused("Readings come with one completion each: leave n at 1.")
        program = self.programs.named(asked).program
        turns = _turns(told, request.prompt_token_ids)
        _check_places(program, len(request.prompt_token_ids), turns)
        prompt = None if program.is_everywhere else request.prompt_token_ids
        request.cache_salt = salt_of(program.digest, request.cache_salt, prompt, turns)
        sealed = Asked(program.digest, turns, "" if ticket is None else str(ticket))
        params.extra_args = extra | sealed.to_extra_args()
        if ticket is not None:
            # What comes out of the cache passes no layer, so nobody could read it.
            params.skip_reading_prefix_cache = True


def _turns(told: Any, prompt: Sequence[int]) -> tuple[Turn, ...]:
    """The turns that a request tells. Raises ``Refused`` for what are none, or another prompt's."""
    if told is None:
        return ()
    if not isinstance(told, list) or (len(told) % 3 == 1 and told[0] != fingerprint(prompt)):
        raise Refused(
            "The server renders this conversation otherwise than steerkit, so nobody knows where its turns lie. Send "
            "messages of texts alone, without tools, pictures or a prefilled answer."
        )
    parts = told[1:] if len(told) % 3 == 1 else told
    try:
        turns = list(zip(parts[::3], parts[1::3], parts[2::3], strict=True))
        found = asked_of({KEY: {"program": "", "turns": turns}})
    except (AttachError, ValueError):
        raise Refused(f"{TURNS!r} are role, start and stop of each turn, one after the other.") from None
    return () if found is None else found.turns


def _check_places(program: Program, prompt_length: int, turns: Sequence[Turn]) -> None:
    """Raise ``Refused`` where the prompt hasn't the tokens that the program acts at: a worker would stop."""
    try:
        for positions in positions_of(program):
            spans_of(positions, prompt_length, turns)
    except PositionError as error:
        raise Refused(f"Program {program.name!r} doesn't fit this prompt. {error}") from None
