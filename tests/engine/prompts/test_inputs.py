"""What prompts may be: texts, conversations, examples, token ids; and nothing is turned into text that isn't."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from numpy import array
from transformers import BatchEncoding

from steerkit.engine.prompts.chat import Rendered
from steerkit.errors import DataError
from steerkit.session import estimate_direction, wrap
from steerkit.session.model import LiveModel
from steerkit.session.words import add
from steerkit.types import Example, Message, Positions, Site

TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}, {"role": "user", "content": "so?"}]
SITE = Site("resid_post", 1)


def ids_of(live: LiveModel, prompt: Any) -> tuple[int, ...]:
    (rendered,) = live.rendered(prompt)
    return rendered.token_ids


def test_a_conversation_is_what_the_template_makes_of_it(llama: LiveModel) -> None:
    tokenizer: Any = llama.tokenizer
    expected = tuple(tokenizer.apply_chat_template(TALK, add_generation_prompt=True)["input_ids"])
    assert (
        ids_of(llama, TALK) == ids_of(llama, [TALK]) == ids_of(llama, Example(tuple(map(Message.of, TALK)))) == expected
    )
    assert "role" not in tokenizer.decode(ids_of(llama, [TALK]))
    captured = llama.capture([TALK], SITE, "all", progress=False)
    assert captured[(SITE, Positions("all"))].count == len(expected)


def test_every_form_of_one_prompt_gives_one_answer(llama: LiveModel) -> None:
    message = [{"role": "user", "content": "hello"}]
    forms: list[Any] = ["hello", ["hello"], message, [message], Example.of("hello"), [Example.of(message)]]
    ids = ids_of(llama, "hello")
    tokens: list[Any] = [torch.tensor([ids]), torch.tensor(ids), list(ids), [list(ids)], {"input_ids": [list(ids)]}]
    tokens += [BatchEncoding({"input_ids": torch.tensor([ids])}), [torch.tensor(ids)], Rendered(ids)]
    tokens += [array(ids), array([ids]), [array(ids)], list(array(ids)), [{"input_ids": list(ids)}]]
    tokens += [BatchEncoding({"input_ids": array([ids]), "attention_mask": array([[1] * len(ids)])})]
    (expected,) = llama.generate("hello", max_new_tokens=4)
    for form in [*forms, *tokens]:
        assert llama.generate(form, max_new_tokens=4) == [expected]
    vector = llama.capture("hello", SITE, progress=False)[(SITE, Positions("", (-1,)))].mean
    for form in [*forms, *tokens]:
        assert torch.equal(llama.capture(form, SITE, progress=False)[(SITE, Positions("", (-1,)))].mean, vector)


def test_a_tokenizers_output_is_token_ids_without_its_padding(llama: LiveModel) -> None:
    tokenizer: Any = llama.tokenizer
    encoded = tokenizer(["hi", "hello there"], padding=True, return_tensors="pt")
    plain = [tuple(tokenizer(text)["input_ids"]) for text in ("hi", "hello there")]
    assert [one.token_ids for one in llama.rendered(encoded)] == plain
    assert len(llama.generate(tokenizer("hi"), max_new_tokens=2)) == 1
    for second in (torch.tensor(plain[1]), list(plain[1]), array(plain[1])):
        assert [one.token_ids for one in llama.rendered(["hi", second])] == [ids_of(llama, "hi"), plain[1]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "Prompts are a text"),
        (b"hi", "Prompts are a text"),
        ({"text": "hi"}, "Prompts are a text"),
        ({"role": "user", "content": "hi"}, "Prompts are a text"),
        (["hi", None], "Prompt 2: "),
        (["hi", 3], "Prompt 2: "),
        ([[{"role": "usr", "content": "hi"}]], "Did you mean 'user'"),
        ([{"role": "user"}], "messages"),
        (torch.tensor([[0.5]]), "whole numbers"),
        (torch.zeros(1, 1, 1, dtype=torch.long), "whole numbers"),
        (torch.tensor([[True]]), "whole numbers"),
        ({"input_ids": [[1, 2]], "pixel_values": [0]}, "pixel_values"),
        ({"input_ids": [[1, 2]], "attention_mask": [[1]]}, "differ in shape"),
        ({"input_ids": ["hi"]}, "whole numbers"),
        (array(["hi"]), "Prompts are a text"),
        (array([[0.5]]), "whole numbers"),
        ([10**6], "none of the model's"),
        (["hi", torch.tensor([[1], [2]])], "Prompt 2: one prompt's token ids"),
    ],
)
def test_anything_else_is_refused_in_a_sentence(llama: LiveModel, value: Any, message: str) -> None:
    for ask in (
        lambda: llama.generate(value, max_new_tokens=1),
        lambda: llama.capture(value, SITE, progress=False),
    ):
        with pytest.raises(DataError, match=message):
            ask()


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.zeros(1, 2), r"int64 or int32 \[batch, pos\]; this one is torch.float32 \[1, 2\]"),
        (torch.zeros(1, 2, dtype=torch.uint8), "torch.uint8"),
        (torch.tensor([5, 6]), r"this one is torch.int64 \[2\]"),
        (torch.zeros(1, 0, dtype=torch.long), r"\[1, 0\]"),
        (torch.tensor([[5, 10**6]]), "Token id 1000000 is none of the model's"),
        (torch.tensor([[5, -1]]), "Token id -1 is none of the model's"),
    ],
)
def test_a_pass_over_what_are_no_token_ids_is_refused(llama: LiveModel, ids: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        llama.forward(ids)


def test_an_answer_that_is_there_is_read_and_not_answered(llama: LiveModel) -> None:
    closed = TALK[:2]
    (rendered,) = llama.rendered(closed)
    assert llama.capture([closed], SITE, "all", progress=False)[(SITE, Positions("all"))].count == len(
        rendered.token_ids
    )
    for ask in (lambda: llama.generate(closed), lambda: llama.complete([closed], max_new_tokens=1)):
        with pytest.raises(DataError, match="ends with a turn of the assistant"):
            ask()


def test_token_ids_need_no_tokenizer(llama: LiveModel) -> None:
    bare = wrap(llama.model, self_test=False, adapter="llama")
    assert len(bare.complete(torch.tensor([[5, 6, 7]]), max_new_tokens=2)[0]) <= 2
    assert bare.capture([[5, 6, 7]], SITE, "all", progress=False)[(SITE, Positions("all"))].count == 3


def test_forward_reads_prompts_and_knows_their_turns(llama: LiveModel) -> None:
    short, tokens = ids_of(llama, "hi"), ids_of(llama, TALK)
    with torch.no_grad():
        both = llama.forward(["hi", TALK]).logits
        for row, ids in enumerate((short, tokens)):
            alone = llama.forward(torch.tensor([ids])).logits[0, -1]
            torch.testing.assert_close(both[row, -1], alone, atol=1e-5, rtol=1e-5)
        direction = estimate_direction(llama, ["a", "b"], ["c", "d"], site="blocks.0.resid_post", progress=False)
        steered = llama.forward(["hi", TALK], steer=[add(direction, positions="user[-1]"), None]).logits
        first = next(turn.span for turn in llama.rendered("hi")[0].turns if turn.role == "user")
        assert first is not None
        before = len(tokens) - len(short) + first[0]
        torch.testing.assert_close(steered[0, before - 1], both[0, before - 1])
        assert (steered[0, before] - both[0, before]).abs().max() > 1e-3
        torch.testing.assert_close(steered[1], both[1])
    with pytest.raises(DataError, match="tensor of token ids only"):
        llama.forward("hi", torch.ones(1, 3))


def test_completions_are_read_behind_their_prompts(llama: LiveModel) -> None:
    examples = [
        Example((Message("user", "hi"),), completion="abc"),
        Example((Message("user", "hello"),), completion="de"),
    ]
    found = llama.capture(examples, SITE, ["completion", "completion[-1]", "-1", "all"], kind="rows", progress=False)
    whole = [one.token_ids for one in llama.rendered(examples, completion=True)]
    with torch.no_grad():
        states = [llama.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[2][0] for ids in whole]
    rows = found[(SITE, Positions("completion"))].rows
    assert rows is not None
    torch.testing.assert_close(rows, torch.cat([states[0][-3:], states[1][-2:]]), atol=1e-5, rtol=1e-5)
    last = found[(SITE, Positions("completion", (-1,)))].rows
    torch.testing.assert_close(last, torch.stack([states[0][-1], states[1][-1]]), atol=1e-5, rtol=1e-5)
    prompts = found[(SITE, Positions("", (-1,)))].rows
    torch.testing.assert_close(prompts, torch.stack([states[0][-4], states[1][-3]]), atol=1e-5, rtol=1e-5)
    assert found[(SITE, Positions("all"))].count == sum(map(len, whole))
    with pytest.raises(DataError, match="prompt 2 has no completion"):
        llama.capture([examples[0], "hi"], SITE, "completion", progress=False)
    # The completion is no part of what is answered.
    assert llama.generate(examples[0], max_new_tokens=3) == llama.generate("hi", max_new_tokens=3)


@pytest.mark.parametrize("side", ["left", "right"])
def test_text_is_searched_in_what_is_captured(llama: LiveModel, side: Any) -> None:
    examples: list[Any] = [Example((Message("user", "a=b"),), completion="c"), "x", "==y"]
    found = llama.capture(examples, SITE, "from_token(=)", kind="rows", padding_side=side, progress=False)
    statistics = found[(SITE, Positions.parse("from_token(=)"))]
    whole = [one.token_ids for one in llama.rendered(examples, completion=True)]
    tokenizer: Any = llama.tokenizer
    sign = tokenizer.encode("=", add_special_tokens=False)[0]
    counts = [len(ids) - ids.index(sign) - 1 if sign in ids else 0 for ids in whole]
    assert counts[1] == 0 and statistics.tokens_per_prompt is not None
    assert statistics.tokens_per_prompt.tolist() == counts
    with pytest.raises(DataError, match="No token"):
        llama.capture(["x"], SITE, "from_token(=)", progress=False)


def test_directions_come_from_completions_too(llama: LiveModel) -> None:
    def classed(text: str) -> list[Example]:
        return [Example((Message("user", prompt),), completion=text) for prompt in ("p", "q")]

    direction = estimate_direction(
        llama, classed("yes"), classed("no!"), site=SITE, positions="completion", progress=False
    )
    means = [
        llama.capture(classed(text), SITE, "completion", progress=False)[(SITE, Positions("completion"))].mean
        for text in ("yes", "no!")
    ]
    torch.testing.assert_close(direction.vectors[0], (means[0] - means[1]).float())
    assert direction.provenance["tokens_positive"] == 6


def test_what_is_generated_is_a_completion_too(llama: LiveModel) -> None:
    direction = estimate_direction(llama, ["a", "b"], ["c", "d"], site="blocks.0.resid_post", progress=False)
    found = {
        where: llama.generate(
            ["hi", TALK], max_new_tokens=6, steer=[add(direction, coefficient=40.0, positions=where)] * 2
        )
        for where in ("completion", "generated", "prompt")
    }
    assert found["completion"] == found["generated"] != found["prompt"]
