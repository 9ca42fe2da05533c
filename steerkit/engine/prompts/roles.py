"""Whose the tokens of a chat template are, shown on one prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from steerkit.engine.prompts.chat import ChatFormat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SHOWN = "How do I boil an egg?"


@dataclass(frozen=True)
class RoleToken:
    """A token of a rendered prompt.

    Args:
        position: counted from the prompt's end.
        token_id: its id.
        text: what the tokenizer calls it.
        role: ``before``, ``instruction`` or ``post_instruction``.
    """

    position: int
    token_id: int
    text: str
    role: str


def roles_shown(tokenizer: PreTrainedTokenizerBase) -> tuple[RoleToken, ...]:
    """The tokens of one user turn as the tokenizer's own chat template renders it; none where it has no template.

    Raises:
        ModelError: where the template can't render a user turn.
    """
    if not tokenizer.chat_template:
        return ()
    rendered = ChatFormat(tokenizer).render(_SHOWN)
    start, stop = rendered.instruction or (0, len(rendered.token_ids))
    texts = tokenizer.convert_ids_to_tokens(list(rendered.token_ids))
    total = len(rendered.token_ids)
    return tuple(
        RoleToken(
            place - total,
            token,
            str(text),
            "before" if place < start else "instruction" if place < stop else "post_instruction",
        )
        for place, (token, text) in enumerate(zip(rendered.token_ids, texts, strict=True))
    )
