"""How examples become tokens, and which of the tokens are whose."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from steerkit.engine.prompts.encoding import continued_token_ids
from steerkit.engine.prompts.special import SpecialTokens, encode_example
from steerkit.engine.sequence.positions import Turn, Turns
from steerkit.errors import DataError, ModelError, nearest
from steerkit.templates import (
    Locator,
    TemplateFaultError,
    answer_opening,
    compiled,
    messages_of,
    opened,
    require_arguments,
)
from steerkit.templates import Turns as Messages
from steerkit.types import PREFIX, Example
from steerkit.types.examples import require_whole

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from steerkit.types import ExampleLike
    from steerkit.types.special_tokens import InText

DEFAULT: Final = "default"
NONE: Final = "none"


@dataclass(frozen=True)
class Rendered:
    """An example as the model reads it.

    Args:
        token_ids: with special tokens, without padding.
        turns: the turns of its conversation, in its order, with the tokens that hold their own text; empty where
            nobody knows any.
        prompt: how many of the tokens are the prompt, where a completion follows; None: all.
        closed: whether it ends with a turn of the assistant's, so that no answer can follow.
    """

    token_ids: tuple[int, ...]
    turns: Turns = ()
    prompt: int | None = None
    closed: bool = False

    @property
    def instruction(self) -> tuple[int, int] | None:
        """``[start, stop)``, the tokens that hold the last user turn's own text. None where nobody knows."""
        return next((turn.span for turn in reversed(self.turns) if turn.role == "user"), None)

    def cut(self, tokens: int) -> Rendered:
        """The first tokens. Where not all of the prompt is among them, nobody knows whether its turns are whole."""
        prompt = len(self.token_ids) if self.prompt is None else self.prompt
        if tokens >= prompt:
            return replace(self, token_ids=self.token_ids[:tokens])
        return Rendered(self.token_ids[:tokens], (), None if self.prompt is None else tokens)

    def require_open(self) -> None:
        """Raise ``DataError`` for a conversation that an answer can't follow."""
        if self.closed:
            raise DataError(
                "A conversation ends with a turn of the assistant's, so there is no answer to write or to predict. "
                "Leave the turn out, or read the conversation with capture; text that a prompt is followed by is "
                "Example(messages, completion=...)."
            )


class ChatFormat:
    """Renders examples through a chat template, or as they are.

    Args:
        tokenizer: a transformers tokenizer.
        template: ``default`` for the tokenizer's own, ``none`` for raw text, or a Jinja template.
        system_prompt: a system message before conversations that have none of their own; None for none, which lets
            some templates put in one of theirs.
        arguments: the template's own variables, as in ``{"enable_thinking": False}``.
        instead: whether the system prompt takes the place of a conversation's own.
        special_tokens_in_text: what becomes of a special token's text in what somebody says: ``allow`` reads that
            token, ``escape`` ordinary text, ``error`` refuses it.

    Raises:
        ModelError: where ``default`` is asked for and the tokenizer has no template, or where a system
            prompt or arguments are given and nothing would render them.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        template: str | None = DEFAULT,
        system_prompt: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        instead: bool = False,
        special_tokens_in_text: InText = "allow",
    ) -> None:
        self.tokenizer = tokenizer
        self.special_tokens = SpecialTokens(tokenizer, special_tokens_in_text)
        self.system_prompt, self.instead = system_prompt, instead
        self.arguments = dict(arguments or {})
        require_arguments(self.arguments)
        require_whole(system_prompt or "", "The system prompt")
        require_whole(template or "", "The chat template")
        self._template: str | None = None
        self._compiled: Callable[..., str] | None = None
        self._open, self._closed = Locator(self._prompt), Locator(self._conversation)
        self.name = NONE if template is None else template if template in (DEFAULT, NONE) else "custom"
        if self.name == DEFAULT:
            self._template = _own_template(tokenizer)
        elif template is not None and self.name == "custom":
            if "{" not in template:  # renders no message, so it is a name that was misspelt
                hint = nearest(template, (DEFAULT, NONE))
                raise ModelError(f"chat_template {template[:60]!r} is no Jinja template. {hint}")
            self._template = template
        elif system_prompt is not None or self.arguments:
            what = "A system prompt needs" if system_prompt is not None else "chat_template_arguments need"
            key = "system_prompt" if system_prompt is not None else "chat_template_arguments"
            raise ModelError(
                f"{what} a chat template, and chat_template is none. Remove {key}, "
                "or set chat_template to default or to a Jinja template."
            )

    @property
    def hash(self) -> str:
        """sha256 of the template, its arguments and the system prompt, for provenance."""
        arguments = json.dumps(self.arguments, sort_keys=True, default=repr)
        how = self.special_tokens.how
        told = (self._template, self.system_prompt, arguments, *(() if how == "allow" else (how,)))
        return hashlib.sha256(repr(told).encode()).hexdigest()

    def with_system_prompt(self, system_prompt: str) -> ChatFormat:
        """The same format with another system prompt, in the place of its own and of a conversation's.

        Raises:
            ModelError: where nothing would render it.
        """
        template = self._template if self.name == "custom" else self.name
        return ChatFormat(
            self.tokenizer,
            template=template,
            system_prompt=system_prompt,
            arguments=self.arguments,
            instead=True,
            special_tokens_in_text=self.special_tokens.how,
        )

    def render(self, prompt: ExampleLike, *, completion: bool = False) -> Rendered:
        """A conversation up to where the model's answer begins, with the words that it is made to begin with; one that
        ends with the assistant's turn, up to its end.

        Args:
            prompt: a text, a list of messages, or an example.
            completion: whether the example's completion follows, where it has one. It begins right behind what the
                template puts before an answer (behind an ``answer_prefix``), and the prompt's tokens stay as they are
                without it, as do the template's without an ``answer_prefix``.

        Raises:
            ModelError: where the template refuses, with the template's own words.
            DataError: for what is no example, or a conversation that nothing renders; for a special token in a text
                where that is an error.
        """
        example = Example.of(prompt)
        if example.is_closed and example.completion is not None:
            raise DataError(
                "An example has a completion, and its conversation ends with the assistant's turn already. A "
                "completion follows what somebody else said: leave one of the two out."
            )
        if example.is_closed and example.answer_prefix is not None:
            raise DataError(
                "An example has an answer_prefix, and its conversation ends with the assistant's turn already. An "
                "answer begins behind what somebody else said: leave one of the two out."
            )
        text, turns, special = self._text(example)
        special_tokens = self.special_tokens
        escaped = special_tokens.escapes_in(example) or special_tokens.escapes([self.system_prompt or ""])
        ids, spans = encode_example(special_tokens, escaped, text, [span for _, span in turns], special=special)
        located = tuple(Turn(role, span) for (role, _), span in zip(turns, spans, strict=True))
        if example.answer_prefix is not None:
            begun = self._opening(example, text) + example.answer_prefix
            before, ids = len(ids), self._behind(escaped, ids, text, begun, special)
            located, text = (*located, Turn(PREFIX, (before, len(ids)))), text + begun
        if not completion or example.completion is None:
            return Rendered(ids, located, closed=example.is_closed)
        whole = self._behind(escaped, ids, text, example.completion, special)
        return Rendered(whole, located, len(ids))

    def text(self, prompt: ExampleLike) -> str:
        """The text whose tokens ``render`` gives, an ``answer_prefix`` included. Raises as ``render`` does."""
        example = Example.of(prompt)
        text, _, _ = self._text(example)
        return text if example.answer_prefix is None else text + self._opening(example, text) + example.answer_prefix

    def render_text(self, text: str) -> Rendered:
        """Raw text, with the special tokens that the tokenizer adds of itself."""
        escaped = self.special_tokens.escapes([text])
        return Rendered(encode_example(self.special_tokens, escaped, text, [(0, len(text))], special=True)[0])

    def _behind(self, escaped: bool, ids: tuple[int, ...], text: str, more: str, special: bool) -> tuple[int, ...]:
        if escaped:
            return self.special_tokens.behind(ids, text, more, special=special)
        return continued_token_ids(self.tokenizer, ids, text, more, special=special)

    def render_reading(self, example: Example) -> Rendered:
        """What evaluators read along: an answer behind its prompt, a plain text by itself, else the conversation.

        An answer is a completion, or the assistant's turn that ends a conversation: both are read to the letter, behind
        what the template puts before an answer.
        """
        if example.is_plain:
            return self.render_text(example.text)
        asked = opened(example)
        read = self.render(asked, completion=True)
        if asked is example or read.prompt is None:
            return read
        own = (read.prompt, len(read.token_ids))
        return replace(read, turns=(*read.turns, Turn("assistant", own if own[0] < own[1] else None)))

    def _text(self, example: Example) -> tuple[str, list[tuple[str, tuple[int, int] | None]], bool]:
        """What is read, the characters of each turn in it, and whether special tokens are still to be added."""
        if self._template is None:
            if len(example.messages) > 1 or example.messages[0].role != "user":
                roles = ", ".join(message.role for message in example.messages)
                raise DataError(
                    f"A conversation ({roles}) needs a chat template, and chat_template is none. Set one, or pass the "
                    "conversation as one text, as the model is to read it."
                )
            content = example.messages[0].content
            return content, [("user", (0, len(content)))], True
        messages = messages_of(example, self.system_prompt, instead=self.instead)
        locator = self._closed if example.is_closed else self._open
        text = locator.render(messages)
        spans = locator.locate(messages, text)
        return text, [(message["role"], span) for message, span in zip(messages, spans, strict=True)], False

    def _opening(self, example: Example, text: str) -> str:
        """What stands between a rendered prompt and the words that an answer is made to begin with."""
        if self._template is None:
            return ""
        messages = messages_of(example, self.system_prompt, instead=self.instead)
        return answer_opening(messages, text, self._conversation, f"The chat template ({self.name})")

    def _prompt(self, messages: Messages) -> str:
        return self._apply(messages, True)

    def _conversation(self, messages: Messages) -> str:
        return self._apply(messages, False)

    def _apply(self, messages: Messages, generation: bool) -> str:
        assert self._template is not None  # raw text isn't rendered
        try:
            if self._compiled is None:
                self._compiled = compiled(self._template, self.tokenizer.special_tokens_map)
            return self._compiled(messages, add_generation_prompt=generation, **self.arguments)
        except TemplateFaultError as error:
            advice = "Check the template."
            if any(message["role"] == "system" for message in messages):
                advice = "Some templates take no system role: set system_prompt to null, or begin the prompts with it."
            elif len(messages) > 1:
                advice = f"Check the template, and the order of turns ({', '.join(item['role'] for item in messages)})."
            told = f"The chat template ({self.name}) can't render this prompt: {error.said}. {advice}"
            raise ModelError(told) from error


def _own_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's chat template. Raises ``ModelError`` where there is none."""
    if not tokenizer.chat_template:
        raise ModelError(
            "The tokenizer has no chat template; the model is a base model, or its template is kept apart. "
            "Set `chat_template: none` for raw text, or `chat_template: {file: template.jinja}` "
            "(in Python: chat_template='none', or the template itself)."
        )
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise ModelError(
            f"The tokenizer's chat templates have no default: {error}. Give the one to use as chat_template."
        ) from error
