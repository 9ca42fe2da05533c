"""Prompts to tokens: what is rendered, and which tokens are the user's own."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from steerkit import templates
from steerkit.engine.prompts.chat import ChatFormat
from steerkit.engine.tiny.models import tiny_tokenizer
from steerkit.errors import ModelError

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "{% for m in messages %}<s>[INST] {{ system + m['content'].strip() }} [/INST]{% endfor %}"
)
GEMMA = (
    "<bos>{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set first = '' %}{% endif %}{% for m in messages %}"
    "<start_of_turn>user\n{{ first if loop.first }}{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<|user|>{{ m['content'] }}{% endfor %}"
)
TWICE = "{% for m in messages %}Q: {{ m['content'] }} (that is: {{ m['content'] }}) A:{% endfor %}"
TEMPLATES = {"chatml": CHATML, "llama-2": LLAMA_2, "gemma": GEMMA}


def bpe(*merges: str, template: str | None = None, trim_offsets: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with the merges that a test needs, and a begin token."""
    pairs = [tuple(merge.split(" ")) for merge in merges]
    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in pairs)]
    vocabulary = {token: index for index, token in enumerate(["<s>", *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    # No pattern: merges may reach over words, as templates' boundaries are reached over.
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    begin = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    trim = processors.ByteLevel(trim_offsets=trim_offsets)
    backend.post_processor = processors.Sequence([trim, begin])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")
    tokenizer.chat_template = template
    return tokenizer


def user_text(chat: ChatFormat, prompt: str) -> str:
    """The text of the tokens that are said to be the user's."""
    rendered = chat.render(prompt)
    assert rendered.instruction is not None
    start, stop = rendered.instruction
    return str(chat.tokenizer.decode(rendered.token_ids[start:stop]))


def whole_text(chat: ChatFormat, prompt: str) -> str:
    return str(chat.tokenizer.decode(chat.render(prompt).token_ids))


@pytest.mark.parametrize("system_prompt", [None, "Answer in one word: hello there"])
@pytest.mark.parametrize("name", TEMPLATES)
@given(prompt=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1))
@example(prompt="user")  # the template says this too
@example(prompt="hello there")  # and the system prompt this
@example(prompt="naïve 🙂 12")
def test_instruction_is_the_users_text(name: str, system_prompt: str | None, prompt: str) -> None:
    chat = ChatFormat(tiny_tokenizer(), template=TEMPLATES[name], system_prompt=system_prompt)
    expected = prompt if name == "chatml" else prompt.strip()
    if not any(mark in prompt for mark in ("<|", "<pad>")):  # the tokenizer's own special tokens
        assert user_text(chat, prompt) == expected


@pytest.mark.parametrize(
    ("template", "before", "after"),
    [
        (CHATML, "user\n", "<|im_end|>\n<|im_start|>assistant\n"),
        (LLAMA_2, "[INST] ", " [/INST]"),
        (GEMMA, "<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n"),
    ],
)
def test_everything_around_it_is_the_templates(template: str, before: str, after: str) -> None:
    chat = ChatFormat(tiny_tokenizer(), template=template)
    rendered = chat.render("the")
    assert rendered.instruction is not None
    start, stop = rendered.instruction
    assert chat.tokenizer.decode(rendered.token_ids[:start]).endswith(before)
    assert chat.tokenizer.decode(rendered.token_ids[stop:]) == after


def test_a_text_that_the_system_prompt_holds_too_is_found_in_its_own_place() -> None:
    chat = ChatFormat(tiny_tokenizer(), template=CHATML, system_prompt="say yes, or say yes")
    rendered = chat.render("say yes")
    assert rendered.instruction is not None
    assert chat.tokenizer.decode(rendered.token_ids[: rendered.instruction[0]]).endswith("<|im_start|>user\n")


def test_a_text_that_the_template_uses_twice_is_found_once() -> None:
    chat = ChatFormat(tiny_tokenizer(), template=TWICE)
    assert user_text(chat, " why? ") == " why? "
    rendered = chat.render("why?")
    assert rendered.instruction is not None
    assert chat.tokenizer.decode(rendered.token_ids[rendered.instruction[1] :]) == ") A:"


def test_a_text_that_the_template_rewrites_is_nowhere() -> None:
    chat = ChatFormat(tiny_tokenizer(), template="{{ messages[0]['content'] | upper }}!")
    assert chat.render("why").instruction is None


def test_a_token_over_the_boundary_is_the_users() -> None:
    # "o<" holds the text's last letter and the template's first; "\nh" the other way round.
    chat = ChatFormat(bpe("o <", "Ċ h"), template=CHATML)
    assert user_text(chat, "hello") == "\nhello<"
    assert user_text(chat, "hallo!") == "\nhallo!"
    assert user_text(chat, "why") == "why"


@pytest.mark.parametrize("trim_offsets", [False, True])
@pytest.mark.parametrize("prompt", ["a b  ", "  a", "a\n\n", " "])
def test_white_space_of_the_users_is_the_users(prompt: str, trim_offsets: bool) -> None:
    chat = ChatFormat(bpe("Ġ Ġ", "Ċ Ċ", trim_offsets=trim_offsets), template=" [{{ messages[0]['content'] }}] .")
    assert user_text(chat, prompt) == prompt
    assert whole_text(chat, prompt) == f" [{prompt}] ."


class Slow:
    """A tokenizer without offsets, as those in Python are."""

    is_fast = False

    def __init__(self, fast: PreTrainedTokenizerFast) -> None:
        self._fast = fast

    def __call__(self, text: str, **arguments: Any) -> Any:
        assert "return_offsets_mapping" not in arguments
        return self._fast(text, **arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fast, name)


@pytest.mark.parametrize("template", [CHATML, LLAMA_2, GEMMA, "none"])
@pytest.mark.parametrize("prompt", ["hello", "hallo!", "why", "naïve 🙂", "user"])
def test_without_offsets_it_is_the_same(template: str, prompt: str) -> None:
    fast = bpe("o <", "Ċ h", "h e")
    slow: Any = Slow(fast)
    assert ChatFormat(slow, template=template).render(prompt) == ChatFormat(fast, template=template).render(prompt)


def test_a_template_that_knows_no_generation_prompt_ends_where_it_ends() -> None:
    chat = ChatFormat(tiny_tokenizer(), template=NO_SYSTEM)
    rendered = chat.render("hi")
    assert rendered.instruction is not None
    assert rendered.instruction[1] == len(rendered.token_ids)


def test_a_template_that_refuses_says_so_in_its_own_words() -> None:
    chat = ChatFormat(tiny_tokenizer(), template=NO_SYSTEM, system_prompt="Be kind.")
    with pytest.raises(ModelError, match=r"System role not supported.*system_prompt to null"):
        chat.render("hi")


def test_a_broken_template_is_an_error_with_its_cause() -> None:
    with pytest.raises(ModelError, match="custom"):
        ChatFormat(tiny_tokenizer(), template="{% for m in messages %}{{ m['content'] }}").render("hi")


def test_the_template_adds_the_special_tokens_and_nothing_else_does() -> None:
    tokenizer = tiny_tokenizer()
    assert ChatFormat(tokenizer).render("hi").token_ids.count(tokenizer.bos_token_id) == 1
    bare = ChatFormat(tokenizer, template="{{ messages[0]['content'] }}").render("hi")
    assert tokenizer.bos_token_id not in bare.token_ids


def test_raw_text_has_the_tokenizers_special_tokens_and_is_all_the_users() -> None:
    tokenizer = tiny_tokenizer()
    rendered = ChatFormat(tokenizer, template="none").render(" hi\n")
    assert rendered.token_ids == tuple(tokenizer(" hi\n")["input_ids"])
    assert rendered.token_ids[0] == tokenizer.bos_token_id
    assert rendered.instruction == (1, 5)


def test_a_text_is_not_a_prompt() -> None:
    tokenizer = tiny_tokenizer()
    rendered = ChatFormat(tokenizer).render_text("Once.")
    assert rendered.token_ids == tuple(tokenizer("Once.")["input_ids"])
    assert rendered.instruction is None


def test_an_empty_prompt_has_an_empty_instruction_in_its_place() -> None:
    chat = ChatFormat(tiny_tokenizer(), template=CHATML)
    empty, one = chat.render("").instruction, chat.render("x").instruction
    assert one is not None and empty == (one[0], one[0])


def test_no_template_is_an_error_that_says_what_to_set() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="chat_template: none"):
        ChatFormat(tokenizer)
    with pytest.raises(ModelError, match="system_prompt"):
        ChatFormat(tokenizer, template="none", system_prompt="Be kind.")


def test_several_templates_need_a_default() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = {"default": CHATML, "tools": NO_SYSTEM}
    assert user_text(ChatFormat(tokenizer), "hi") == "hi"
    tokenizer.chat_template = {"tools": NO_SYSTEM, "rag": NO_SYSTEM}
    with pytest.raises(ModelError, match="no default"):
        ChatFormat(tokenizer)


def test_name_and_hash_tell_formats_apart() -> None:
    tokenizer = tiny_tokenizer()
    formats = [
        ChatFormat(tokenizer),
        ChatFormat(tokenizer, template="none"),
        ChatFormat(tokenizer, template=CHATML),
        ChatFormat(tokenizer, template=CHATML, system_prompt=""),
        ChatFormat(tokenizer, template=CHATML, system_prompt="Be kind."),
    ]
    assert [chat.name for chat in formats] == ["default", "none", "custom", "custom", "custom"]
    assert len({chat.hash for chat in formats}) == len(formats)
    assert ChatFormat(tokenizer).hash == formats[0].hash


def test_a_template_that_prints_the_date_gives_the_same_tokens_every_day() -> None:
    from steerkit.engine.tiny.models import tiny_tokenizer

    template = "{{ strftime_now('%d %b %Y') }}|{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer = tiny_tokenizer()
    rendered = ChatFormat(tokenizer, template=template).render("hello")
    assert tokenizer.decode(rendered.token_ids).startswith("26 Jul 2024|hello")


class WithoutGlibc(date):
    """A date as Windows prints it: without the one form that is glibc's."""

    def strftime(self, form: str) -> str:
        if "%-" in form:
            raise ValueError("Invalid format string")
        return super().strftime(form)


def test_a_date_is_printed_on_platforms_that_know_no_day_without_a_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "TODAY", WithoutGlibc(2024, 7, 6))
    template = "{{ strftime_now('%-d|%d %b %Y') }}{{ messages[-1]['content'] }}"
    tokenizer = tiny_tokenizer()
    rendered = ChatFormat(tokenizer, template=template).render("x").token_ids
    assert tokenizer.decode(rendered) == "6|06 Jul 2024x"
    assert templates.strftime_now("%-d|%d %b %Y") == "6|06 Jul 2024"
