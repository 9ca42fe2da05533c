"""Chat templates without torch: the one date that they are told, rendering, and where each turn's text ends up.

A turn is found by what is around it, never by searching for its text: the conversation is rendered once more with a
mark in place of that one text, so that all else is equal to the letter. What stands between the two parts that the
mark cuts is the turn's. So it is right for any template that renders: one that trims, reorders, repeats or drops turns,
or takes the reasoning out of earlier answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from steerkit.errors import ModelError
from steerkit.types import Example

if TYPE_CHECKING:
    from steerkit.sandbox import BoundedTemplate

Turns: TypeAlias = Sequence[Mapping[str, str]]
"""Messages as templates take them: ``{role, content}``."""

Render: TypeAlias = Callable[[Turns], str]
"""From messages to the rendered text."""

Span: TypeAlias = tuple[int, int]

TODAY: Final = date(2024, 7, 26)
"""What a template is told when it asks for the date, on whatever day it asks: equal prompts give equal tokens.
It is the date that Llama 3's templates name where they can't ask."""

RESERVED: Final = (
    *("messages", "conversation", "add_generation_prompt", "continue_final_message", "chat_template", "tokenize"),
    *("padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask"),
    *("tokenizer_kwargs", "strftime_now", "raise_exception"),
)
"""Names that rendering sets by itself, so that no template argument has them."""

_HALF: Final = re.compile("[\ud800-\udfff]")
_MARK: Final = "steerkit0marks0the0text"
"""Stands for a turn's text. Plain letters and digits, so that no template's trimming changes it."""


class TemplateFaultError(ModelError):
    """A chat template that isn't one, refuses, fails, or takes too much. ``said`` is why, without a full stop."""

    def __init__(self, what: str, said: str) -> None:
        self.said = said
        super().__init__(f"{what}: {said}.")


def messages_of(example: Example, system_prompt: str | None, *, instead: bool = False) -> list[dict[str, str]]:
    """An example's conversation as templates take it, with the system prompt before one that has none of its own.

    With ``instead`` the system prompt takes the place of the conversation's own.
    """
    messages = [
        {"role": message.role, "content": message.content}
        for message in example.messages
        if not (instead and system_prompt is not None and message.role == "system")
    ]
    if system_prompt is not None and not any(message["role"] == "system" for message in messages):
        messages.insert(0, {"role": "system", "content": system_prompt})
    return messages


def strftime_now(form: str) -> str:
    """What templates call to print a date, with the fixed one."""
    for part, text in _date_parts().items():
        form = form.replace(part, text)
    return form


def _date_parts() -> dict[str, str]:
    parts = ("%d", "%m", "%b", "%B", "%y", "%Y", "%A", "%a", "%H", "%M", "%S")
    # `%-d` is glibc's: other platforms refuse it.
    return {"%-d": str(TODAY.day), **{part: TODAY.strftime(part) for part in parts}}


def require_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise ``ModelError`` for template arguments that rendering sets by itself."""
    taken = [name for name in arguments if name in RESERVED]
    if taken:
        raise ModelError(
            f"chat_template_arguments can't hold {' and '.join(taken)}: rendering sets that by itself. They are the "
            "template's own variables, such as enable_thinking."
        )


def compiled(source: str, names: Mapping[str, Any]) -> Callable[..., str]:
    """A template that renders as transformers does, in such a sandbox, within bounds of time and size.

    Args:
        source: the template.
        names: special tokens, as in ``{"bos_token": "<s>"}``.

    Returns:
        renders messages, with the template's own variables by keyword. It raises ``TemplateFaultError`` with what the
        template did: refuse, fail, or take more than ``steerkit.sandbox`` lets it.

    Raises:
        TemplateFaultError: where it is no template.
    """
    from steerkit.sandbox import why

    try:
        template = _bounded(source)
    except Exception as error:  # a template is foreign code, which may break whatever reads it
        raise TemplateFaultError("The chat template is not a Jinja template", why(error)) from error

    def render(messages: Turns, **arguments: Any) -> str:
        # Transformers says of both that there are none, which isn't the same as saying nothing.
        given = {"tools": None, "documents": None, **names, **arguments}
        try:
            text = template.render({**given, "messages": [dict(message) for message in messages]})
        except Exception as error:
            if not _is_the_templates(error):
                raise
            raise TemplateFaultError("The chat template can't render this", why(error)) from error
        if _HALF.search(text) is not None:
            half = "it makes half of a surrogate pair, which no tokenizer reads"
            raise TemplateFaultError("The chat template can't render this", half)
        return text

    return render


@lru_cache(maxsize=16)
def _bounded(source: str) -> BoundedTemplate:
    """A template compiled once for everybody who asks, which takes longer than rendering all the prompts."""
    from steerkit.sandbox import BoundedTemplate

    return BoundedTemplate(source, {"raise_exception": _refuse, "strftime_now": strftime_now})


def _is_the_templates(error: Exception) -> bool:
    """Whether a template can have raised that, rather than somebody who stops this thread, as servers do."""
    return type(error).__module__.partition(".")[0] in ("builtins", "jinja2", "markupsafe", "steerkit")


def _refuse(message: str) -> None:
    import jinja2

    raise jinja2.TemplateError(message)


class Locator:
    """Finds the turns of conversations in what a template makes of them.

    What surrounds a turn doesn't depend on its own text, so it is rendered once for all conversations that differ in
    that text alone, as the rows of a data set do.

    Args:
        render: from messages to the rendered text; raises ``ModelError`` where the template refuses.
    """

    def __init__(self, render: Render) -> None:
        self.render = render
        self._known: dict[tuple[object, ...], list[str] | None] = {}

    def locate(self, messages: Turns, text: str) -> list[Span | None]:
        """Where each turn's text lies in the rendered one, in characters; None where it isn't, or can't be told.

        Args:
            messages: the conversation.
            text: what the template makes of it.
        """
        return [self._one(messages, place, text) for place in range(len(messages))]

    def _one(self, messages: Turns, place: int, text: str) -> Span | None:
        parts = self._around(messages, place)
        if parts is None:
            return None
        content = messages[place]["content"]
        if len(parts) > 2:
            return _repeated(parts, text, content)
        head, tail = parts
        if not (text.startswith(head) and text.endswith(tail) and len(text) >= len(head) + len(tail)):
            if not content.strip() and (at := _trimmed_around(head, tail, text)) is not None:
                return at, at
            return self._by_its_end(messages, place, text)
        start, stop = len(head), len(text) - len(tail)
        inside = text[start:stop]
        if any(inside in form for form in _forms(content)):
            return start, stop
        # The template puts more around some texts than around the mark: the text itself, where it is there once.
        for form in (content, content.strip()):
            if form and inside.count(form) == 1:
                at = start + inside.index(form)
                return at, at + len(form)
        return None

    def _by_its_end(self, messages: Turns, place: int, text: str) -> Span | None:
        """Where a turn lies whose text changes what is around it, by where more of its text would follow.

        Qwen 3 takes an answer's reasoning apart and prints it anew: before a mark it would print an empty one.
        """
        content = messages[place]["content"].rstrip()
        mark = _mark(messages)
        longer = [{**item, "content": content + mark} if at == place else item for at, item in enumerate(messages)]
        try:
            parts = self.render(longer).split(mark)
        except ModelError:
            return None
        if not content or len(parts) != 2 or not text.endswith(parts[1]):
            return None
        stop = len(text) - len(parts[1])
        for form in (messages[place]["content"], content, content.lstrip()):
            if text[:stop].endswith(form) and text[:stop].rstrip() == parts[0]:
                return stop - len(form), stop
        return None

    def _around(self, messages: Turns, place: int) -> list[str] | None:
        """The rendered text without that turn's, cut where it was; None where it isn't in it."""
        others = tuple((item["role"], None if at == place else item["content"]) for at, item in enumerate(messages))
        key = (place, *others)
        if key not in self._known:
            mark = _mark(messages)
            marked = [{**item, "content": mark} if at == place else item for at, item in enumerate(messages)]
            try:
                parts = self.render(marked).split(mark)
            except ModelError:
                # A template that looks into texts may take no other than this one.
                parts = []
            if len(self._known) > 4096:
                self._known.clear()
            self._known[key] = parts if len(parts) > 1 else None
        return self._known[key]


def opened(example: Example) -> Example:
    """A conversation that ends with an answer, as what is before it with that answer as its completion; others as
    they are, and so is one that is nothing but an answer."""
    if not example.is_closed or example.completion is not None or len(example.messages) < 2:
        return example
    return replace(example, messages=example.messages[:-1], completion=example.messages[-1].content)


def answer_opening(messages: Turns, prompt: str, conversation: Render, what: str = "The chat template") -> str:
    """What stands between a rendered prompt and the words that an answer is made to begin with, nearly always nothing.

    Some templates put a space of their own before an answer's text (Llama 2), and it is kept. What follows is never
    rendered, so that no template trims it.

    Args:
        messages: the conversation.
        prompt: what the template makes of it, with what it puts before an answer.
        conversation: renders messages without that.
        what: what the message calls the template.

    Raises:
        ModelError: where the answer's turn isn't open at the end of the prompt.
    """
    mark = _mark(messages)
    answered, asked = (
        _rendered(conversation, [*messages, {"role": role, "content": mark}]) for role in ("assistant", "user")
    )
    head, found, tail = (answered or "").partition(mark)
    if found and head.startswith(prompt) and not head[len(prompt) :].strip():
        return head[len(prompt) :]
    if not found or answered == asked:
        return ""  # a template for prompts alone, which ends where an answer begins
    ended = bool(tail.strip()) and prompt.rstrip().endswith(tail.strip())
    if prompt != _rendered(conversation, messages) and not ended:
        return ""
    raise ModelError(
        f"{what} leaves no turn of the assistant's open behind a prompt, which ends with {prompt[-24:]!r}: an "
        "answer_prefix would continue what somebody else says. Leave answer_prefix out, or give a template that begins "
        "the answer where add_generation_prompt is set (model.chat_template: {file: template.jinja})."
    )


def _rendered(render: Render, messages: Turns) -> str | None:
    """A rendered conversation, or None where the template refuses it, as some do two turns of one role."""
    try:
        return render(messages)
    except ModelError:
        return None


def _mark(messages: Turns) -> str:
    """A mark that none of the texts holds."""
    mark = _MARK
    while any(mark in item["content"] for item in messages):
        mark += "0"
    return mark


def _forms(content: str) -> tuple[str, ...]:
    """A text as it is, and as templates quote it (Llama 3.1 shows what tools say as JSON)."""
    return (content, *(json.dumps(content, ensure_ascii=ascii_only)[1:-1] for ascii_only in (False, True)))


def _trimmed_around(head: str, tail: str, text: str) -> int | None:
    """Where an empty text lies whose template trims what is around it too, as Llama 2's does a system prompt's end."""
    heads, tails = (head, head.rstrip()), (tail, tail.lstrip())
    return next((len(before) for before in heads for behind in tails if before + behind == text), None)


def _repeated(parts: Sequence[str], text: str, content: str) -> Span | None:
    """The last place of a text that a template uses several times, each time in the same way or trimmed."""
    forms = dict.fromkeys((content, content.strip(), content.rstrip(), content.lstrip()))

    def follow(at: int, part: int) -> list[Span] | None:
        if part == len(parts):
            return [] if at == len(text) else None
        for form in forms:
            if text.startswith(form + parts[part], at):
                rest = follow(at + len(form) + len(parts[part]), part + 1)
                if rest is not None:
                    return [(at, at + len(form)), *rest]
        return None

    found = follow(len(parts[0]), 1) if text.startswith(parts[0]) else None
    return found[-1] if found else None
