"""Where turns lie: found in a conversation's messages, and told with the tokens for which that holds."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest

import steerkit
from steerkit.errors import DataError
from steerkit_vllm.conversing import Conversations, fingerprint
from tests.steerkit_vllm.fronts import MODEL, Front, program

SAID = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How are you?"}]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)


@cache
def tokenizer() -> Any:
    return steerkit.load_model("tiny-random:llama").tokenizer


def test_turns_are_the_tokens_of_their_texts() -> None:
    found = steerkit.conversation_tokens(tokenizer(), SAID, chat_template=TEMPLATE)
    texts = [tokenizer().decode(found.token_ids[start:stop]) for _, start, stop in found.turns]
    assert [role for role, _, _ in found.turns] == ["system", "user"]
    assert [said["content"] in text for said, text in zip(SAID, texts, strict=True)] == [True, True]
    whole = tokenizer().apply_chat_template(SAID, chat_template=TEMPLATE, add_generation_prompt=True, tokenize=False)
    assert list(found.token_ids) == tokenizer()(whole, add_special_tokens=False)["input_ids"]


def test_a_template_that_hides_turns_is_an_error() -> None:
    with pytest.raises(DataError, match="hides which tokens are the system's own"):
        steerkit.conversation_tokens(tokenizer(), SAID, chat_template="{{ messages[-1].content }}<a>")


def test_the_chat_endpoint_tells_turns_where_the_program_names_them() -> None:
    told = Conversations(tokenizer(), TEMPLATE)
    front = Front(conversations=told).load(program("warm"), program("asked", 2.0, "user[-1]"))
    chat = "/v1/chat/completions"
    extra = front.post(chat, messages=SAID, steer="asked")[1]["body"]["vllm_xargs"]
    found = steerkit.conversation_tokens(tokenizer(), SAID, chat_template=TEMPLATE)
    assert extra["steer_turns"] == [fingerprint(found.token_ids), *(part for turn in found.turns for part in turn)]
    assert "steer_turns" not in front.post(chat, messages=SAID, steer="warm")[1]["body"]["vllm_xargs"]
    assert "steer_turns" not in front.post(prompt="x", steer="asked")[1]["body"]["vllm_xargs"]
    status, answer = front.post(chat, messages=[{"role": "user", "content": [{"type": "text"}]}], steer="asked")
    assert status == 400 and "texts as their contents" in answer["error"]["message"]


def test_without_a_template_nobody_has_turns() -> None:
    from steerkit_vllm.errors import Unfit
    from steerkit_vllm.fitting import Served
    from tests.steerkit_vllm.fronts import STATE

    class Bare:
        chat_template = None

    assert Conversations(tokenizer(), TEMPLATE).has_template and not Conversations(Bare()).has_template
    Served.of([STATE]).check(program(positions="user[-1]"))
    with pytest.raises(Unfit, match="no chat template"):
        Served.of([STATE], has_turns=False).check(program(positions="user[-1]"))


@pytest.mark.parametrize("prompt", [None, "Be brief."])
def test_a_program_of_another_chat_template_is_listed_as_such(prompt: str | None) -> None:
    live = steerkit.load_model("tiny-random:llama", chat_template=TEMPLATE, system_prompt=prompt)
    front = Front(conversations=Conversations(tokenizer(), TEMPLATE))
    for name, hash in (("same", live.chat.hash), ("other", "0" * 64), ("untold", None)):
        front.load(program(name, float(len(name)), model=replace(MODEL, template_sha256=hash), system_prompt=prompt))
    listed = front.ask("GET", "/v1/steer/programs")[1]["data"]
    assert {one["id"]: one["chat_template_as_measured"] for one in listed} == {
        "same": True,
        "other": False,
        "untold": None,
    }
