"""How prompts become tokens, and which of the tokens are the user's own text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import jinja2

from steerkit.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT: Final = "default"
NONE: Final = "none"

TODAY: Final = date(2024, 7, 26)
"""What a template is told when it asks for the date, on whatever day it asks: equal prompts give equal tokens.
It is the date that Llama 3's templates name where they can't ask."""

_MARK: Final = "steerkit0marks0the0instruction"
"""Stands for the user's text. Plain letters and digits, so that no template's trimming changes it."""


@dataclass(frozen=True)
class Rendered:
    """A prompt as the model reads it.

    Args:
        token_ids: with special tokens, without padding.
        instruction: ``[start, stop)``, the tokens that hold the user's own text; a token that holds
            some of it and some of the template's counts as the user's. None where nobody knows.
        prompt: how many of the tokens are the prompt, where a completion follows; None: all.
    """

    token_ids: tuple[int, ...]
    instruction: tuple[int, int] | None = None
    prompt: int | None = None

    def cut(self, tokens: int) -> Rendered:
        """The first tokens. Of the user's own part nobody knows then whether it is whole."""
        return Rendered(self.token_ids[:tokens], None, None if self.prompt is None else min(self.prompt, tokens))


class ChatFormat:
    """Renders prompts through a chat template, or as they are.

    Args:
        tokenizer: a transformers tokenizer.
        template: ``default`` for the tokenizer's own, ``none`` for raw text, or a Jinja template.
        system_prompt: a system message before the prompt; None for none, which lets some templates put
            in one of their own.

    Raises:
        ModelError: where ``default`` is asked for and the tokenizer has no template, or where a system
            prompt is given and nothing would render it.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, template: str | None = DEFAULT, system_prompt: str | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.system_prompt = system_prompt
        self._template: str | None = None
        self.name = NONE if template is None else template if template in (DEFAULT, NONE) else "custom"
        if self.name == DEFAULT:
            self._template = _own_template(tokenizer)
        elif self.name == "custom":
            self._template = template
        elif system_prompt is not None:
            raise ModelError(
                "A system prompt needs a chat template, and chat_template is none. Remove system_prompt, "
                "or set chat_template to default or to a Jinja template."
            )

    @property
    def hash(self) -> str:
        """sha256 of the template and the system prompt, for provenance."""
        return hashlib.sha256(repr((self._template, self.system_prompt)).encode()).hexdigest()

    def with_system_prompt(self, system_prompt: str) -> ChatFormat:
        """The same format with another system prompt, in the place of its own.

        Raises:
            ModelError: where nothing would render it.
        """
        template = self._template if self.name == "custom" else self.name
        return ChatFormat(self.tokenizer, template=template, system_prompt=system_prompt)

    def render(self, prompt: str) -> Rendered:
        """One user turn, up to where the model's answer begins.

        Raises:
            ModelError: where the template refuses, with the template's own words.
        """
        if self._template is None:
            return self._encode(prompt, (0, len(prompt)), special=True)
        text = self._apply(prompt)
        return self._encode(text, self._locate(text, prompt), special=False)

    def render_text(self, text: str) -> Rendered:
        """Raw text, with the special tokens that the tokenizer adds of itself."""
        return self._encode(text, None, special=True)

    def _apply(self, content: str) -> str:
        messages = [] if self.system_prompt is None else [{"role": "system", "content": self.system_prompt}]
        messages.append({"role": "user", "content": content})
        try:
            rendered = self.tokenizer.apply_chat_template(
                messages, chat_template=_dated(self._template), tokenize=False, add_generation_prompt=True
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            advice = "Check the template."
            if self.system_prompt is not None:
                advice = "Some templates take no system role: set system_prompt to null, or begin the prompts with it."
            raise ModelError(f"The chat template ({self.name}) can't render this prompt: {error}. {advice}") from error
        return str(rendered)

    @cached_property
    def _frame(self) -> tuple[str, str] | None:
        """What the template puts before and after the user's text; None where it isn't used exactly once."""
        parts = self._apply(_MARK).split(_MARK)
        return (parts[0], parts[1]) if len(parts) == 2 else None

    def _locate(self, text: str, prompt: str) -> tuple[int, int] | None:
        """The characters of the user's text in the rendered one.

        By what is around it, not by searching for it: a system prompt or the template may hold the same words.
        """
        if self._frame is not None:
            head, tail = self._frame
            if text.startswith(head) and text.endswith(tail) and len(text) >= len(head) + len(tail):
                return len(head), len(text) - len(tail)
        needle = prompt.strip()
        start = text.rfind(needle) if needle else -1
        return None if start < 0 else (start, start + len(needle))

    def _encode(self, text: str, characters: tuple[int, int] | None, *, special: bool) -> Rendered:
        arguments: dict[str, Any] = {"add_special_tokens": special, "truncation": False, "verbose": False}
        if characters is None:
            return Rendered(tuple(self.tokenizer(text, **arguments)["input_ids"]))
        if self.tokenizer.is_fast:
            encoded = self.tokenizer(text, **arguments, return_offsets_mapping=True)
            return Rendered(tuple(encoded["input_ids"]), _overlap(characters, encoded["offset_mapping"]))
        ids = tuple(self.tokenizer(text, **arguments)["input_ids"])
        start, stop = (tuple(self.tokenizer(text[:end], **arguments)["input_ids"]) for end in characters)
        return Rendered(ids, _span_by_prefixes(ids, start, stop))


def strftime_now(form: str) -> str:
    """What templates call to print a date, with the fixed one."""
    for part, text in _date_parts().items():
        form = form.replace(part, text)
    return form


def _date_parts() -> dict[str, str]:
    parts = ("%d", "%m", "%b", "%B", "%y", "%Y", "%A", "%a", "%H", "%M", "%S")
    # `%-d` is glibc's: other platforms refuse it.
    return {"%-d": str(TODAY.day), **{part: TODAY.strftime(part) for part in parts}}


def _dated(template: str | None) -> str | None:
    """The template with a fixed date. A macro of that name goes before transformers' function of today's date."""
    if template is None or "strftime_now" not in template:
        return template
    replaced = "".join(f" | replace('{part}', '{text}')" for part, text in _date_parts().items())
    return f"{{%- macro strftime_now(form) -%}}{{{{ form{replaced} }}}}{{%- endmacro -%}}{template}"


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


def _overlap(characters: tuple[int, int], offsets: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The tokens ``[start, stop)`` that hold any of the characters ``[first, end)``.

    A token of no width is either one that the tokenizer adds (at 0), or white space whose offsets were
    trimmed to its end.
    """
    first, end = characters
    inside = [
        index
        for index, (start, stop) in enumerate(offsets)
        if (start < end and stop > first if start < stop else first < stop <= end)
    ]
    if inside:
        return inside[0], inside[-1] + 1
    place = next((index for index, (start, stop) in enumerate(offsets) if start >= end and stop > start), len(offsets))
    return place, place


def _span_by_prefixes(ids: Sequence[int], start: Sequence[int], stop: Sequence[int]) -> tuple[int, int]:
    """The same for a tokenizer without offsets, from the tokens of the texts that end where the span does.

    Where they disagree with the whole text's, a token reaches over the boundary: it holds some of the user's text.
    """
    first, last = _agreement(ids, start), _agreement(ids, stop)
    return first, max(first, last + (last < len(stop)))


def _agreement(ids: Sequence[int], prefix: Sequence[int]) -> int:
    pairs = enumerate(zip(prefix, ids, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(prefix), len(ids)))
