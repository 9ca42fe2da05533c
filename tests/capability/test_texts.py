"""Tokens and passes of capability tasks, held to literal computations. Nothing here needs the harness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

import steerkit
from steerkit.api.direction import Direction
from steerkit.capability import texts
from steerkit.errors import DataError
from steerkit.session.model import LiveModel
from steerkit.types import Site

SITE = "blocks.1.resid_pre"
PAIRS = [
    ("The cow says", " moo"),
    ("The cow says", " meow"),
    ("The cow says ", "moo"),
    ("", "moo"),
    ("A rather longer text about cows, cats and dogs, which say", " woof, and nothing else"),
    ("A", "b"),
]


def direction(live: LiveModel, scale: float = 3.0) -> Direction:
    width = live.layout.width(Site.parse(SITE))
    vector = torch.randn(1, width, generator=torch.Generator().manual_seed(5)) * scale
    return Direction(vector, SITE, name="push")


def literal(live: LiveModel, context: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool]:
    """One row, the whole model, the sum written out."""
    ids = torch.tensor([[*context, *continuation]])
    with torch.no_grad():
        logits = live.model(input_ids=ids).logits[0].double()
    places = range(len(context) - 1, ids.shape[1] - 1)
    total = sum(float(logits[place].log_softmax(-1)[ids[0, place + 1]]) for place in places)
    return total, all(int(logits[place].argmax()) == int(ids[0, place + 1]) for place in places)


def by_hand(live: LiveModel, given: Direction) -> Any:
    """The stream before block 1 with the vector added, by a hook of torch's own."""
    vector = given.by_site[Site.parse(SITE)][0]

    def add(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0] + vector, *args[1:])

    return live.model.model.layers[1].register_forward_pre_hook(add)


def test_white_space_goes_with_the_word_behind_it(llama: LiveModel) -> None:
    assert texts.encode_pair(llama, "The cow says ", "moo") == texts.encode_pair(llama, "The cow says", " moo")
    context, continuation = texts.encode_pair(llama, "The cow says\n ", "moo")
    whole = texts.token_ids(llama.chat.tokenizer, "The cow says\n moo", special=True)
    assert context + continuation == whole
    assert context == texts.token_ids(llama.chat.tokenizer, "The cow says", special=True)


@pytest.mark.parametrize("context", ["", " "])
def test_without_a_context_the_begin_token_is_one(llama: LiveModel, context: str) -> None:
    before, after = texts.encode_pair(llama, context, "moo")
    tokenizer = llama.chat.tokenizer
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    assert before == (begin,) and after == texts.token_ids(tokenizer, context + "moo", special=False)


def test_likelihoods_are_those_of_whole_texts_one_by_one(llama: LiveModel) -> None:
    pairs = [texts.encode_pair(llama, *one) for one in PAIRS]
    # What the model writes itself is greedy.
    context = pairs[4][0]
    ids = list(context)
    for _ in range(3):
        with torch.no_grad():
            ids.append(int(llama.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    pairs.append((context, tuple(ids[len(context) :])))
    found = texts.loglikelihoods(llama, pairs)
    wanted = [literal(llama, *pair) for pair in pairs]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in wanted], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]
    assert found[-1][1] and not all(greedy for _, greedy in found)


def test_steered_likelihoods_are_those_of_the_hook_by_hand(llama: LiveModel) -> None:
    given = direction(llama)
    pairs = [texts.encode_pair(llama, *one) for one in PAIRS]
    plain = texts.loglikelihoods(llama, pairs)
    with llama.steer(steerkit.add(given, coefficient=1.0)):
        found = texts.loglikelihoods(llama, pairs)
    hook = by_hand(llama, given)
    wanted = [literal(llama, *pair)[0] for pair in pairs]
    hook.remove()
    assert [value for value, _ in found] == pytest.approx(wanted, abs=1e-4)
    assert min(abs(one[0] - other[0]) for one, other in zip(found, plain, strict=True)) > 1e-3


def test_the_context_is_the_prompt(llama: LiveModel) -> None:
    """An edit of the prompt's last token alone, by hand: the token before the continuation."""
    given = direction(llama)
    vector = given.by_site[Site.parse(SITE)][0]
    context, continuation = texts.encode_pair(llama, "The cow says", " moo, and moo")
    with llama.steer(steerkit.add(given, coefficient=1.0, positions="last")):
        ((found, _),) = texts.loglikelihoods(llama, [(context, continuation)])

    def add(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        moved = args[0].clone()
        moved[:, len(context) - 1] += vector
        return (moved, *args[1:])

    hook = llama.model.model.layers[1].register_forward_pre_hook(add)
    wanted, _ = literal(llama, context, continuation)
    hook.remove()
    assert found == pytest.approx(wanted, abs=1e-4)


def test_a_long_context_loses_its_first_tokens(llama: LiveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama.model.config, "max_position_embeddings", 12)
    context, continuation = tuple(range(7, 27)), (30, 31, 32)
    ((found, _),) = texts.loglikelihoods(llama, [(context, continuation)])
    # Thirteen tokens are left: twelve that are read, and the last one, which is only predicted.
    assert found == pytest.approx(literal(llama, context[-10:], continuation)[0], abs=1e-4)
    with pytest.raises(DataError, match="longer than the model's context of 12"):
        texts.loglikelihoods(llama, [(context, tuple(range(7, 20)))])


def test_windows_predict_every_token_once() -> None:
    ids = tuple(range(10))
    assert list(texts.windows(ids, 99, 4)) == [
        ((99,), (0, 1, 2, 3)),
        ((3,), (4, 5, 6, 7)),
        ((5, 6, 7), (8, 9)),
    ]
    assert list(texts.windows((), 99, 4)) == []


def test_rolling_likelihoods_are_sums_over_windows(llama: LiveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Cows say moo, cats say meow."
    ids = texts.token_ids(llama.chat.tokenizer, text, special=True)
    prefix = texts.prefix_id(llama)
    whole = literal(llama, (prefix,), ids)[0]
    empty = texts.token_ids(llama.chat.tokenizer, "", special=True)  # a tokenizer's own tokens, if any
    nothing = literal(llama, (prefix,), empty)[0] if empty else 0.0
    assert texts.rolling_loglikelihoods(llama, [text, ""]) == pytest.approx([whole, nothing], abs=1e-4)
    monkeypatch.setattr(llama.model.config, "max_position_embeddings", 16)
    wanted = sum(literal(llama, *pair)[0] for pair in texts.windows(ids, prefix, 16))
    assert texts.rolling_loglikelihoods(llama, [text]) == pytest.approx([wanted], abs=1e-3)


def greedy(live: LiveModel, context: str, n: int) -> str:
    """Argmax after argmax, without a cache."""
    tokenizer = live.chat.tokenizer
    ids = list(texts.token_ids(tokenizer, context, special=True))
    begin = len(ids)
    for _ in range(n):
        with torch.no_grad():
            best = int(live.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if best == tokenizer.eos_token_id:
            break
        ids.append(best)
    return str(tokenizer.decode(ids[begin:], skip_special_tokens=True))


def test_what_is_written_is_greedy_up_to_a_stop_string(llama: LiveModel) -> None:
    contexts = ["The cow says", "A cat, which is another animal, says", "D"]
    whole = [greedy(llama, one, 10) for one in contexts]
    assert texts.generations(llama, [(one, {"max_gen_toks": 10}) for one in contexts]) == whole
    stop = whole[0][3:5]
    assert stop
    found = texts.generations(llama, [(one, {"until": [stop], "max_gen_toks": 10}) for one in contexts])
    assert found == [text.split(stop)[0] for text in whole] and len(found[0]) < len(whole[0])
    # A stop string that the prompt holds ends nothing.
    assert texts.generations(llama, [("The cow says", {"until": "says", "max_gen_toks": 10})]) == whole[:1]


def test_writing_is_steered(llama: LiveModel) -> None:
    given = direction(llama, 30.0)
    hook = by_hand(llama, given)
    wanted = greedy(llama, "The cow says", 8)
    hook.remove()
    with llama.steer(steerkit.add(given, coefficient=1.0)):
        found = texts.generations(llama, [("The cow says", {"max_gen_toks": 8})])
    assert found == [wanted] and wanted != greedy(llama, "The cow says", 8)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"do_sample": True, "temperature": 0.7}, "sampled answers"),
        ({"temperature": 0.7}, "sampled answers"),
        ({"max_gen_toks": 10**6}, "lower max_gen_toks"),
    ],
)
def test_what_is_not_done_here_is_said(llama: LiveModel, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        texts.generations(llama, [("a", settings)])


def test_a_choice_without_a_token_is_said(llama: LiveModel) -> None:
    with pytest.raises(DataError, match="without a token"):
        texts.loglikelihoods(llama, [((7,), ())])
