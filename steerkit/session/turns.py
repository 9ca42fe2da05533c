"""Where the turns of a conversation lie among its tokens: for whoever serves a model with an engine of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steerkit.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from steerkit.types import Message


@dataclass(frozen=True)
class ConversationTokens:
    """A conversation as a model reads it, up to where its answer begins.

    Args:
        token_ids: of the prompt, special tokens included.
        turns: each turn's role with ``[start, stop)``, the tokens of its own text, in the conversation's order.
    """

    token_ids: tuple[int, ...]
    turns: tuple[tuple[str, int, int], ...]


def conversation_tokens(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message | Mapping[str, str]],
    *,
    chat_template: str | None = None,
    chat_template_arguments: Mapping[str, Any] | None = None,
) -> ConversationTokens:
    """The tokens of a conversation and of its turns, found by rendering it; no model is needed.

    Args:
        tokenizer: the model's, of transformers.
        messages: with ``role`` and ``content``.
        chat_template: a Jinja template; the tokenizer's own if not given.
        chat_template_arguments: the template's own variables, as in ``{"enable_thinking": False}``.

    Raises:
        ModelError: where there is no template, or it refuses.
        DataError: for what is no conversation, and where the template hides which tokens are whose.
    """
    from steerkit.engine.prompts.chat import DEFAULT, ChatFormat

    template = DEFAULT if chat_template is None else chat_template
    rendered = ChatFormat(tokenizer, template=template, arguments=chat_template_arguments).render(list(messages))
    turns = []
    for turn in rendered.turns:
        if turn.span is None:
            raise DataError(
                f"The chat template hides which tokens are the {turn.role}'s own, so positions can't name its turns."
            )
        turns.append((turn.role, *turn.span))
    return ConversationTokens(rendered.token_ids, tuple(turns))


def chat_template_sha256(
    tokenizer: PreTrainedTokenizerBase,
    *,
    chat_template: str | None = None,
    chat_template_arguments: Mapping[str, Any] | None = None,
    system_prompt: str | None = None,
) -> str:
    """How conversations are rendered, as one hash: what a run's provenance and a program say of the model that was
    measured, to be compared with what another engine renders.

    Args:
        tokenizer: the model's, of transformers.
        chat_template: a Jinja template; the tokenizer's own if not given.
        chat_template_arguments: the template's own variables.
        system_prompt: what the recipe's ``model.system_prompt`` is.

    Raises:
        ModelError: where there is no template.
    """
    from steerkit.engine.prompts.chat import DEFAULT, ChatFormat

    template = DEFAULT if chat_template is None else chat_template
    arguments = chat_template_arguments
    return ChatFormat(tokenizer, template=template, arguments=arguments, system_prompt=system_prompt).hash
