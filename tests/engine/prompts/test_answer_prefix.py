"""An answer that is made to begin with given words: where they stand, whose they are, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from steerkit.engine.prompts.chat import ChatFormat
from steerkit.engine.prompts.roles import roles_shown
from steerkit.engine.sequence.positions import frame_of_prompts, position_intervals
from steerkit.engine.tiny.models import tiny_tokenizer
from steerkit.errors import DataError, ModelError, PositionError
from steerkit.types import Example, Message, Positions
from tests.conftest import tiny_live
from tests.engine.prompts.test_chat import CHATML, GEMMA, LLAMA_2, NO_SYSTEM, bpe

# As the models' own are, with the assistant's turns.
LLAMA_2_TALK = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<s>[INST] {{ m['content'].strip() }} [/INST]"
    "{% else %}{{ ' ' + m['content'].strip() + ' </s>' }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA_TALK = (
    "<bos>{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
TALKING = {"chatml": CHATML, "llama-2": LLAMA_2_TALK, "llama-3": LLAMA_3, "gemma": GEMMA_TALK}
PREFIXES = ("Sure", "Sure, ", "  Sure,\n\n", " ", "1. 🙂")


def begun(prompt: str, prefix: str, **about: Any) -> Example:
    return Example((Message("user", prompt),), answer_prefix=prefix, **about)


def texts(chat: ChatFormat, example: Example, *roles: str) -> list[str]:
    """The text of the tokens that positions name."""
    read = chat.render(example, completion=True)
    lengths = [len(read.token_ids)]
    frame = frame_of_prompts(
        lengths, [read.turns], width=lengths[0], padding_side="left", prompts=[read.prompt or lengths[0]]
    )
    found = []
    for role in roles:
        start, stop = position_intervals(Positions.parse(role), frame)
        found.append(str(chat.tokenizer.decode(read.token_ids[int(start) : int(stop)])))
    return found


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", TALKING)
def test_it_stands_where_the_template_puts_an_answer_and_nothing_is_trimmed(name: str, prefix: str) -> None:
    """Against transformers' own way to continue a last message, on a text that no template changes; and to the letter
    for texts that some trim."""
    tokenizer = tiny_tokenizer()
    chat = ChatFormat(tokenizer, template=TALKING[name])
    rendered = chat.render(begun("why?", prefix))
    talk = [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "Sure"}]
    theirs = tokenizer.apply_chat_template(
        talk, chat_template=TALKING[name], tokenize=False, continue_final_message=True
    )
    expected = str(theirs).removesuffix("Sure") + prefix
    assert list(rendered.token_ids) == tokenizer(expected, add_special_tokens=False)["input_ids"]
    bare = chat.render("why?").token_ids
    assert rendered.token_ids[: len(bare)] == bare, "the prompt's own tokens stay as they are"


@pytest.mark.parametrize("name", TALKING)
def test_it_is_a_part_of_the_prompt_and_neither_instruction_nor_template(name: str) -> None:
    chat = ChatFormat(tiny_tokenizer(), template=TALKING[name])
    example = begun("why?", "Sure, ", completion="I do.")
    instruction, behind, prefix, completion, last = texts(
        chat, example, "instruction", "post_instruction", "answer_prefix", "completion", "last"
    )
    assert instruction == "why?" and completion == "I do." and last == " "
    assert prefix == (" Sure, " if name == "llama-2" else "Sure, "), "with the space that a template has there"
    plain = Example((Message("user", "why?"),))
    assert texts(chat, plain, "post_instruction") == [behind]
    with pytest.raises(PositionError, match="isn't made to begin with anything"):
        texts(chat, plain, "answer_prefix")


def test_a_template_of_prompts_alone_ends_where_an_answer_begins() -> None:
    """As the paper's own do, which render whoever speaks as the user."""
    for template in (LLAMA_2, GEMMA, NO_SYSTEM, "Q: {{ messages[0]['content'] }} A:"):
        chat = ChatFormat(tiny_tokenizer(), template=template)
        bare = chat.tokenizer.decode(chat.render("why").token_ids)
        assert chat.tokenizer.decode(chat.render(begun("why", "Sure")).token_ids) == f"{bare}Sure"


def test_without_a_template_it_follows_the_text() -> None:
    tokenizer = tiny_tokenizer()
    chat = ChatFormat(tokenizer, template="none")
    rendered = chat.render(begun("The capital of", " France is", completion=" Paris"), completion=True)
    assert list(rendered.token_ids) == tokenizer("The capital of France is Paris")["input_ids"]
    assert rendered.prompt == len(tokenizer("The capital of France is")["input_ids"])
    example = begun("The capital of", " France is")
    assert texts(chat, example, "instruction", "answer_prefix") == ["The capital of", " France is"]


ENDED = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<|im_end|>\n{% endif %}"
)
DEAF = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"


@pytest.mark.parametrize("template", [ENDED, DEAF])
def test_a_template_that_leaves_no_answer_open_is_refused(template: str) -> None:
    chat = ChatFormat(tiny_tokenizer(), template=template)
    chat.render("why")
    with pytest.raises(ModelError, match=r"leaves no turn of the assistant's open .* Leave answer_prefix out, or give"):
        chat.render(begun("why", "Sure"))


THINKING = CHATML.replace(
    "{% if add_generation_prompt %}<|im_start|>assistant\n",
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n",
)


def test_what_a_template_puts_before_an_answer_stays_before_it() -> None:
    chat = ChatFormat(tiny_tokenizer(), template=THINKING)
    assert texts(chat, begun("why", "Well"), "answer_prefix") == ["Well"]
    assert str(chat.tokenizer.decode(chat.render(begun("why", "Well")).token_ids)).endswith("assistant\n<think>\nWell")


def test_a_token_never_reaches_from_the_template_into_the_prefix() -> None:
    tokenizer: PreTrainedTokenizerBase = bpe("Ċ S", "e ,", template=CHATML)
    chat = ChatFormat(tokenizer, template=CHATML)
    bare, rendered = chat.render("why").token_ids, chat.render(begun("why", "Sure,")).token_ids
    assert rendered[: len(bare)] == bare
    assert tokenizer.convert_ids_to_tokens(list(rendered[len(bare) :])) == ["S", "u", "r", "e,"]


def test_what_can_begin_nowhere_is_refused() -> None:
    talk = (Message("user", "why"), Message("assistant", "so"))
    with pytest.raises(DataError, match="ends with the assistant's turn already"):
        ChatFormat(tiny_tokenizer()).render(Example(talk, answer_prefix="Sure"))
    with pytest.raises(DataError, match="An answer_prefix is text, not int"):
        Example(talk, answer_prefix=3)  # type: ignore[arg-type]  # what a user may pass
    assert Example(talk, answer_prefix="") == Example(talk)


def test_inspect_tells_whose_its_tokens_are() -> None:
    tokenizer = tiny_tokenizer()
    plain, shown = roles_shown(tokenizer), roles_shown(tokenizer, "Ok")
    assert [one.token_id for one in shown[:-2]] == [one.token_id for one in plain]
    assert [one.role for one in shown[:-2]] == [one.role for one in plain]
    assert [(one.role, one.position) for one in shown[-2:]] == [("answer_prefix", -2), ("answer_prefix", -1)]


def test_inspect_shows_the_tokens_of_a_template_that_is_given() -> None:
    """A tokenizer without a template (Qwen 1's) has none to show, and a recipe gives one."""
    tokenizer, own = tiny_tokenizer(), roles_shown(tiny_tokenizer())
    tokenizer.chat_template = None
    assert roles_shown(tokenizer) == ()
    template = "[INST] {{ messages[0]['content'] }} [/INST] "
    shown = roles_shown(tokenizer, None, template)
    behind = [one for one in shown if one.role == "post_instruction"]
    assert str(tokenizer.decode([one.token_id for one in behind])) == " [/INST] "
    assert [one.position for one in behind] == list(range(-len(behind), 0)) and shown != own
    hidden = roles_shown(tokenizer, "Ok", "{{ messages[0]['content'] | upper }}")
    assert {one.role for one in hidden[:-2]} == {"unknown"}, "no instruction is made up"
    assert {one.role for one in hidden[-2:]} == {"answer_prefix"}


def test_completions_and_logits_follow_it() -> None:
    """Of a live model: what it writes is what it writes behind the same token ids, and comes without the prefix."""
    live = tiny_live("llama")
    example = begun("why?", "Sure, ")
    ids = live.chat.render("why?").token_ids + tuple(live.chat.tokenizer.encode("Sure, ", add_special_tokens=False))
    assert live.chat.render(example).token_ids == ids
    assert live.complete([example], max_new_tokens=4) == live.complete([torch.tensor(ids)], max_new_tokens=4)
    assert live.complete([example], max_new_tokens=4) != live.complete(["why?"], max_new_tokens=4)
