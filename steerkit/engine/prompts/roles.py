"""Whose the tokens of a chat template are, shown on one prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from steerkit.engine.prompts.chat import DEFAULT, ChatFormat
from steerkit.types import PREFIX, Example, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SHOWN = "How do I boil an egg?"
UNKNOWN: Final = "unknown"
"""The role of all tokens where the template hides which are the user's own."""


@dataclass(frozen=True)
class RoleToken:
    """A token of a rendered prompt.

    Args:
        position: counted from the prompt's end.
        token_id: its id.
        text: what the tokenizer calls it.
        role: ``before``, ``instruction``, ``post_instruction`` or ``answer_prefix``; ``unknown`` for all but the last,
            where nobody knows which tokens are the user's.
    """

    position: int
    token_id: int
    text: str
    role: str


def roles_shown(
    tokenizer: PreTrainedTokenizerBase, answer_prefix: str | None = None, template: str | None = None
) -> tuple[RoleToken, ...]:
    """The tokens of one user turn as a chat template renders it; none where there is no template.

    Args:
        tokenizer: the model's.
        answer_prefix: how the answer is made to begin, or None.
        template: a Jinja template; the tokenizer's own where None.

    Raises:
        ModelError: where the template can't render a user turn, or opens no answer that could begin so.
    """
    if template is None and not tokenizer.chat_template:
        return ()
    chat = ChatFormat(tokenizer, template=DEFAULT if template is None else template)
    rendered = chat.render(Example((Message("user", _SHOWN),), answer_prefix=answer_prefix))
    start, stop = rendered.instruction or (0, len(rendered.token_ids))
    begun = next((turn.span[0] for turn in rendered.turns if turn.role == PREFIX and turn.span is not None), None)
    texts = tokenizer.convert_ids_to_tokens(list(rendered.token_ids))
    total = len(rendered.token_ids)
    open_at = total if begun is None else begun
    ends = [("before", start), ("instruction", stop), ("post_instruction", open_at)]
    ends = [(UNKNOWN, open_at)] if rendered.instruction is None else ends
    return tuple(
        RoleToken(
            place - total,
            token,
            str(text),
            next((role for role, end in ends if place < end), PREFIX),
        )
        for place, (token, text) in enumerate(zip(rendered.token_ids, texts, strict=True))
    )
