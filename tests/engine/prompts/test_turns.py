"""Turns of a conversation in what a template makes of it: whatever it trims, folds, drops, moves or rewrites."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steerkit.engine.prompts.batches import batches
from steerkit.engine.prompts.chat import ChatFormat, Rendered
from steerkit.engine.sequence.positions import edit_mask, position_intervals
from steerkit.engine.tiny.models import tiny_tokenizer
from steerkit.errors import DataError, ModelError, PositionError
from steerkit.templates import Locator, compiled
from steerkit.types import Example, Message, Positions

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FOLDED = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}{% set rest = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if m['role'] == 'user' %}"
    "<s>[INST] {{ (system if loop.first else '') + m['content'].strip() }} [/INST]"
    "{% else %} {{ m['content'].strip() }} </s>{% endif %}{% endfor %}"
)
DATED = (
    "<|begin|>{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "[system]Today: {{ strftime_now('%d %b %Y') }}\n{{ system }}[end]{% for m in messages %}"
    "[{{ m['role'] }}]{{ m['content'] | tojson if m['role'] == 'tool' else m['content'] | trim }}[end]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
STRICT = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "<start>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<start>model\n{% endif %}"
)
LAST_ONLY = (
    "{{ messages[-1]['role'] }}: {{ messages[-1]['content'] }}{% if add_generation_prompt %}\nassistant:{% endif %}"
)
REORDERED = (
    "{% for m in messages if m['role'] != 'system' %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% for m in messages if m['role'] == 'system' %}<rules>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
REPEATED = "{% for m in messages %}({{ m['content'] }})({{ m['content'] | trim }}){% endfor %}"
THINKING = (
    "{% for m in messages %}<{{ m['role'] }}>{% if m['role'] == 'assistant' %}"
    "{% set said = m['content'].split('</think>')[-1].lstrip('\n') %}"
    "{% set thought = m['content'].split('</think>')[0].split('<think>')[-1].strip() if '</think>' in m['content'] "
    "else '' %}"
    "{% if loop.last %}<think>\n{{ thought }}\n</think>\n\n{% endif %}{{ said }}"
    "{% else %}{{ m['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
TALK = (("system", " Be kind. "), ("user", "user"), ("assistant", " Yo "), ("user", " user\n"))


def conversation(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def shown(chat: ChatFormat, rendered: Rendered) -> list[tuple[str, str | None]]:
    """Each turn with the text of the tokens that are said to be its own."""
    decode = chat.tokenizer.decode
    return [
        (turn.role, None if turn.span is None else decode(rendered.token_ids[slice(*turn.span)]))
        for turn in rendered.turns
    ]


def turns_of(template: str, *turns: tuple[str, str]) -> list[tuple[str, str | None]]:
    chat = ChatFormat(tiny_tokenizer(), template=template)
    return shown(chat, chat.render(conversation(*turns)))


def trimmed(turns: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(role, text.strip()) for role, text in turns]


def test_each_turn_is_found_whatever_the_template_does_to_it() -> None:
    assert turns_of(CHATML, *TALK) == list(TALK)
    assert turns_of(REORDERED, *TALK) == list(TALK)
    assert turns_of(DATED, *TALK) == trimmed(TALK)
    assert turns_of(STRICT, *TALK[1:]) == trimmed(TALK[1:])
    assert turns_of(FOLDED, *TALK) == [TALK[0], *trimmed(TALK[1:])]
    assert turns_of(REPEATED, ("user", " a "), ("assistant", "b")) == [("user", "a"), ("assistant", "b")]


def test_a_turn_that_the_template_drops_is_not_there_and_the_others_are() -> None:
    assert turns_of(LAST_ONLY, *TALK) == [("system", None), ("user", None), ("assistant", None), ("user", " user\n")]


def test_a_turn_that_is_rewritten_is_where_what_is_left_of_it_stands() -> None:
    thinking = "<think>\nhm\n</think>\n\nfour"
    earlier = turns_of(THINKING, ("user", "2+2"), ("assistant", thinking), ("user", "sure?"))
    assert earlier == [("user", "2+2"), ("assistant", "four"), ("user", "sure?")]
    # At the end the reasoning is printed anew, around a mark as well: found by where the text goes on.
    assert turns_of(THINKING, ("user", "2+2"), ("assistant", thinking)) == [("user", "2+2"), ("assistant", thinking)]
    quoted = turns_of(DATED, ("user", "q"), ("assistant", "c"), ("tool", '{"a": "b"}'), ("user", "r"))
    assert quoted[2] == ("tool", '{\\"a\\": \\"b\\"}')
    shouting = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | upper }}{% endfor %}"
    assert turns_of(shouting, ("user", "why")) == [("user", None)]
    noted = "{% for m in messages %}{{ 'NOTE ' if '?' in m['content'] }}{{ m['content'] }}{% endfor %}!"
    assert turns_of(noted, ("user", "why?")) == [("user", "why?")]


@given(st.lists(st.text("ab \n<>[]", min_size=1, max_size=6).filter(str.strip), min_size=3, max_size=3))
def test_turns_with_equal_or_nested_texts_are_told_apart(texts: list[str]) -> None:
    """A text is where the template puts it, never where its letters happen to be found."""
    messages = conversation(("user", texts[0]), ("assistant", texts[1]), ("user", texts[2]))
    render = compiled(CHATML, {})
    text = render(messages, add_generation_prompt=True)
    spans = Locator(lambda given: render(given, add_generation_prompt=True)).locate(messages, text)
    at, expected = 0, []
    for message in messages:
        at += len(f"<|im_start|>{message['role']}\n")
        expected.append((at, at + len(message["content"])))
        at += len(message["content"]) + len("<|im_end|>\n")
    assert spans == expected


def test_a_text_that_holds_the_mark_is_a_text_like_any_other() -> None:
    from steerkit.templates import _MARK

    turns = (("user", _MARK), ("assistant", f"{_MARK}0"), ("user", "x"))
    assert turns_of(CHATML, *turns) == list(turns)


def test_a_conversation_that_ends_with_the_answer_is_read_to_its_end() -> None:
    chat = ChatFormat(tiny_tokenizer(), template=CHATML)
    rendered = chat.render(conversation(("user", "hi"), ("assistant", "yo")))
    assert rendered.closed and str(chat.tokenizer.decode(rendered.token_ids)).endswith("yo<|im_end|>\n")
    with pytest.raises(DataError, match="ends with a turn of the assistant"):
        rendered.require_open()
    with pytest.raises(DataError, match="leave one of the two out"):
        chat.render(Example((Message("user", "hi"), Message("assistant", "yo")), completion="x"))


def test_the_system_prompt_is_for_conversations_without_one() -> None:
    chat = ChatFormat(tiny_tokenizer(), template=CHATML, system_prompt="Be brief.")
    assert shown(chat, chat.render("hi")) == [("system", "Be brief."), ("user", "hi")]
    assert shown(chat, chat.render(conversation(*TALK)))[0] == TALK[0]


def test_a_conversation_needs_a_template_and_one_that_takes_it() -> None:
    with pytest.raises(DataError, match="chat_template is none"):
        ChatFormat(tiny_tokenizer(), template="none").render(conversation(*TALK))
    with pytest.raises(ModelError, match=r"Roles must alternate.*user, user"):
        ChatFormat(tiny_tokenizer(), template=STRICT).render(conversation(("user", "a"), ("user", "b")))


def test_arguments_reach_the_template_and_its_hash() -> None:
    template = CHATML + "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    plain, quiet = (
        ChatFormat(tiny_tokenizer(), template=template, arguments=given) for given in (None, {"enable_thinking": False})
    )
    decode = plain.tokenizer.decode
    assert decode(quiet.render("x").token_ids) == decode(plain.render("x").token_ids) + "<think></think>"
    assert plain.hash != quiet.hash
    with pytest.raises(ModelError, match="can't hold messages"):
        ChatFormat(tiny_tokenizer(), template=template, arguments={"messages": []})
    with pytest.raises(ModelError, match="chat_template_arguments need a chat template"):
        ChatFormat(tiny_tokenizer(), template="none", arguments={"a": 1})


# Begin tokens and completions.


def test_a_text_that_begins_already_gets_no_second_begin() -> None:
    tokenizer = tiny_tokenizer()
    raw, begin = ChatFormat(tokenizer, template="none"), tokenizer.bos_token
    plain = raw.render("hi")
    assert raw.render(f"{begin}hi").token_ids == plain.token_ids
    assert raw.render(f"{begin}hi").instruction == (0, 3)
    assert raw.render(f"{begin}{begin}hi").token_ids == (plain.token_ids[0], *plain.token_ids)
    assert raw.render_text(f"{begin}hi").token_ids == plain.token_ids
    text = tokenizer.apply_chat_template(conversation(("user", "hi")), tokenize=False, add_generation_prompt=True)
    assert raw.render(text).token_ids == ChatFormat(tokenizer).render("hi").token_ids


@pytest.mark.parametrize("completion", ["x", " yes\n", "\n\n", "é", ""])
@pytest.mark.parametrize("template", [CHATML, FOLDED, "none"])
def test_a_completion_follows_the_prompt_and_leaves_its_tokens_alone(template: str, completion: str) -> None:
    from tests.engine.prompts.test_chat import bpe

    # "\n\n" and "]x" are tokens that would reach over the boundary.
    for tokenizer in (tiny_tokenizer(), bpe("Ċ Ċ", "] x", template=CHATML)):
        chat = ChatFormat(tokenizer, template=template)
        prompt = chat.render("why]")
        whole = chat.render(Example((Message("user", "why]"),), completion=completion), completion=True)
        assert whole.token_ids[: whole.prompt] == prompt.token_ids and whole.turns == prompt.turns
        assert tokenizer.decode(whole.token_ids[whole.prompt :]) == completion
        assert chat.render(Example((Message("user", "why]"),), completion=completion)).token_ids == prompt.token_ids


# Positions in batches.


def columns(text: str, rendered: Sequence[Rendered], side: str = "right") -> list[list[int]]:
    (batch,) = batches(
        rendered,
        batch_tokens=10_000,
        padding_side=side,
        pad_id=0,
        device=torch.device("cpu"),  # type: ignore[arg-type]
    )
    mask = edit_mask(position_intervals(Positions.parse(text), batch.frame), 0, batch.input_ids.shape[1])
    rows = {index: mask[row].nonzero().flatten() - batch.frame.first[row] for row, index in enumerate(batch.order)}
    return [rows[index].tolist() for index in range(len(rendered))]


@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_by_turn_in_rows_with_different_conversations(side: str) -> None:
    chat = ChatFormat(tiny_tokenizer(), template="{% for m in messages %}[{{ m['content'] }}]{% endfor %}")
    long = chat.render(conversation(("system", "abc"), ("user", "de"), ("assistant", "f"), ("user", "ghij")))
    short = chat.render(conversation(("system", "a"), ("user", "bcd")))
    # [abc][de][f][ghij] and [a][bcd]
    assert columns("system", [long, short], side) == [[1, 2, 3], [1]]
    assert columns("user", [long, short], side) == [[6, 7, 13, 14, 15, 16], [4, 5, 6]]
    assert columns("user[-1]", [short, long], side) == [[4, 5, 6], [13, 14, 15, 16]]
    assert columns("user[0][-1]", [long, short], side) == [[7], [6]]
    assert columns("user[-1][1:3]", [long, short], side) == [[14, 15], [5, 6]]
    assert columns("instruction", [long, short], side) == columns("user[-1]", [long, short], side)
    assert columns("post_instruction", [long, short], side) == [[17], [7]]
    assert columns("assistant[-1]", [long], side) == [[10]]
    answered = chat.render(Example((Message("user", "ab"),), completion="xyz"), completion=True)
    assert columns("completion", [answered], side) == [[4, 5, 6]]
    assert columns("completion[-1]", [answered], side) == [[6]]
    assert columns("completion[:2]", [answered], side) == [[4, 5]]
    assert columns("-1", [answered], side) == [[3]]


def test_a_turn_that_is_not_there_is_said_to_be_missing_or_not_shown() -> None:
    chat = ChatFormat(tiny_tokenizer(), template=LAST_ONLY)
    rendered = chat.render(conversation(*TALK))
    with pytest.raises(PositionError, match="none of its turns is the tool's"):
        columns("tool", [rendered])
    with pytest.raises(PositionError, match="only 2 of its turns are the user's"):
        columns("user[2]", [rendered])
    with pytest.raises(PositionError, match="doesn't show that turn"):
        columns("system", [rendered])
    assert columns("user", [rendered]) == columns("user[-1]", [rendered])


def test_turns_moved_behind_the_last_one_count_as_what_follows_it() -> None:
    chat = ChatFormat(tiny_tokenizer(), template=REORDERED)
    rendered = chat.render(conversation(("system", "abc"), ("user", "de")))
    ((first, *_, last),) = columns("post_instruction", [rendered])
    (own,) = columns("instruction", [rendered])
    assert (first, last) == (own[-1] + 1, len(rendered.token_ids) - 1)
    (system,) = columns("system", [rendered])
    assert set(system) < set(range(first, last + 1))


def test_turns_are_known_as_long_as_the_whole_prompt_is_there() -> None:
    turns = ChatFormat(tiny_tokenizer(), template=CHATML).render("abc").turns
    whole = Rendered(tuple(range(10)), turns, 6)
    assert whole.cut(20) == whole and whole.cut(6) == Rendered(tuple(range(6)), turns, 6)
    assert whole.cut(5) == Rendered(tuple(range(5)), (), 5)
    assert Rendered(tuple(range(10)), turns).cut(9) == Rendered(tuple(range(9)))
