"""Whether prompts fit into a model's context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from steerkit.errors import DataError, counted

if TYPE_CHECKING:
    from steerkit.engine.prompts.chat import Rendered


def require_fitting(
    rendered: Sequence[Rendered],
    limit: int | None,
    extra_tokens: int = 0,
    decode: Callable[[Sequence[int]], str] | None = None,
) -> None:
    """Raise ``DataError`` for a prompt without a token, or one that is longer than the context.

    Args:
        rendered: the prompts.
        limit: most tokens that the model reads; None where it doesn't say.
        extra_tokens: how many each row will grow by.
        decode: shows how a prompt begins; None where there is no tokenizer.
    """
    for prompt in rendered:
        length = len(prompt.token_ids)
        if length == 0:
            raise DataError("A prompt has no token at all: its text is empty, and nothing is put around it.")
        if limit is not None and length + extra_tokens > limit:
            more = f" and {extra_tokens} to generate" if extra_tokens else ""
            verb = "are" if extra_tokens else "is"  # the prompt, or the two together
            shown = "." if decode is None else f": {decode(prompt.token_ids[:24])!r}…"
            raise DataError(
                f"A prompt of {counted(length, 'token')}{more} {verb} more than the model's context of {limit}. "
                f"Shorten it or leave it out{shown}"
            )
