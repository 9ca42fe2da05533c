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

from steerkit_vllm.errors import Refused
from steerkit_vllm.names import ASKED, SEALED, TICKET
from steerkit_vllm.programs import Programs

SALT: Final = "steerkit-"
"""What the salts of steered requests begin with, and no user's own."""


class Params(Protocol):
    """What is used of ``vllm.SamplingParams``."""

    extra_args: dict[str, Any] | None
    skip_reading_prefix_cache: bool | None


class EngineRequest(Protocol):
    """What is used of vLLM's ``EngineCoreRequest``."""

    prompt_token_ids: list[int] | None
    prompt_embeds: Any
    mm_features: Any
    cache_salt: str | None
    sampling_params: Any
    pooling_params: Any


def salt_of(digest: str, own: str | None, prompt: Sequence[int] | None) -> str:
    """The salt of a steered request.

    Args:
        digest: of the program.
        own: the salt that the request brings itself.
        prompt: its tokens, where what is done to one depends on its place; None where it doesn't.
    """
    # Lengths are in it, so that no part can be taken for the end of the part before it.
    parts = [digest, "" if own is None else f"own {len(own)} {own}"]
    parts += [] if prompt is None else [f"prompt {len(prompt)} {','.join(map(str, prompt))}"]
    return SALT + sha256("\n".join(parts).encode()).hexdigest()


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
        params: Params | None = request.sampling_params
        if params is None:
            self._without_program(getattr(request.pooling_params, "extra_kwargs", None))
            return
        extra = dict(params.extra_args or {})
        asked, ticket = extra.pop(ASKED, None), extra.pop(TICKET, None)
        if asked is None:
            self._without_program(extra if ticket is None else {TICKET: ticket})
            if request.cache_salt is not None and request.cache_salt.startswith(SALT):
                raise Refused(f"cache_salt may not begin with {SALT!r}: such salts keep steered requests apart.")
            return
        if SEALED in extra:
            raise Refused(f"{SEALED!r} is what the server tells its workers; ask for a program with {ASKED!r}.")
        if grows or request.prompt_embeds is not None or request.mm_features or request.prompt_token_ids is None:
            raise Refused("A steered request has one prompt of text or token ids, all of it from the beginning.")
        program = self.programs.named(asked).program
        prompt = None if program.is_everywhere else request.prompt_token_ids
        request.cache_salt = salt_of(program.digest, request.cache_salt, prompt)
        extra[SEALED] = {"program": program.digest} | ({} if ticket is None else {"ticket": str(ticket)})
        params.extra_args = extra
        if ticket is not None:
            # What comes out of the cache passes no layer, so nobody could read it.
            params.skip_reading_prefix_cache = True

    @staticmethod
    def _without_program(extra: Any) -> None:
        """Raise where anything of ours is asked for nonetheless: nobody is left unsteered in silence."""
        told = [key for key in (ASKED, TICKET, SEALED) if key in (extra or {})]
        if told:
            raise Refused(f"{told[0]!r} can't be served here: only requests that generate text are steered or read.")
