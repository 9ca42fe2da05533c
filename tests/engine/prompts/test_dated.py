"""A template that asks for the date renders as any, to the letter; and an empty turn has its place."""

from __future__ import annotations

from typing import Any

import pytest

from steerkit.engine.prompts.chat import ChatFormat
from steerkit.engine.tiny.models import tiny_tokenizer
from steerkit.templates import TODAY
from steerkit.types import Example

BODY = "{% for message in messages %}{{ message['content'] }}|{% endfor %}{{ strftime_now('%d %b %Y') }}"
DATE = TODAY.strftime("%d %b %Y")
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' }}{% endif %}{% endfor %}"
)


def text(template: str, **more: Any) -> str:
    return ChatFormat(tiny_tokenizer(), template=template, **more).text("a")


@pytest.mark.parametrize(
    "begins", ["", " ", "  x", "\n", "\n\n", "\n  y", "\t", " \n z\n", "{{ '' }} ", "  {% if true %}p{% endif %}"]
)
def test_white_space_at_the_beginning_stays(begins: str) -> None:
    """As a template that is handed the date as a word renders, which no macro stands before."""
    plain = BODY.replace("strftime_now('%d %b %Y')", f"'{DATE}'")
    assert text(begins + BODY) == text(begins + plain)
    assert text(begins + BODY).endswith(f"a|{DATE}")


def test_an_empty_turn_that_is_trimmed_with_what_is_before_it_has_its_place() -> None:
    tokenizer = tiny_tokenizer()
    for content in ("", " ", "\n "):
        rendered = ChatFormat(tokenizer, template=LLAMA2, system_prompt="Be kind.").render(content)
        start, stop = rendered.instruction or (None, None)
        assert start == stop is not None
        assert tokenizer.decode(rendered.token_ids[:start]) == "[INST] <<SYS>>\nBe kind.\n<</SYS>>"
        assert tokenizer.decode(rendered.token_ids[start:]) == " [/INST]"
        alone = ChatFormat(tokenizer, template=LLAMA2).render(content)
        assert alone.instruction is not None
    said = ChatFormat(tokenizer, template=LLAMA2, system_prompt="Be kind.").render("x")
    assert said.instruction is not None and tokenizer.decode(said.token_ids[slice(*said.instruction)]) == "x"


def test_an_empty_turn_within_a_conversation() -> None:
    talk = [("system", "s"), ("user", ""), ("assistant", "b"), ("user", "c")]
    example = Example.of([{"role": role, "content": said} for role, said in talk])
    rendered = ChatFormat(tiny_tokenizer()).render(example)
    spans = [turn.span for turn in rendered.turns]
    assert None not in spans and [stop - start for start, stop in spans if (start, stop)] == [1, 0, 1, 1]  # type: ignore[misc]
