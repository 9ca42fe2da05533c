"""Why a completion ends, and where: planted tokens, each ending by itself and beside rows that end otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, StoppingCriteriaList

from steerkit.engine.runtime.ending import StopTexts
from steerkit.errors import DataError, ModelError
from steerkit.session import wrap
from steerkit.session.model import LiveModel
from tests.engine.forced import forced

PROMPTS = ["one", "two"]


def ends(live: LiveModel, rows: Sequence[str | Sequence[int]], n: int, **settings: Any) -> list[tuple[Any, ...]]:
    script = forced(live, PROMPTS[: len(rows)], rows)
    found = live.completions(PROMPTS[: len(rows)], max_new_tokens=n, logits_processor=script, **settings)
    return [(one.token_ids, one.finish_reason) for one in found]


def test_an_end_token_a_length_and_a_text_end_rows_of_one_batch(llama: LiveModel) -> None:
    encode = llama.chat.tokenizer.encode
    stop, other = encode("ab. c", add_special_tokens=False), encode("xyzxyzxyz", add_special_tokens=False)
    until = encode("ab.", add_special_tokens=False)
    assert ends(llama, ["ab. c", "xyzxyzxyz"], 6, stop_strings=".") == [
        (tuple(until), "stop_string"),
        (tuple(other[:6]), "length"),
    ]
    assert ends(llama, [stop, other], 6, eos_token_id=other[2]) == [
        (tuple((stop + [stop[-1]] * 6)[:6]), "length"),
        (tuple(other[:2]), "end_token"),
    ]
    # With an end token, what has ended is filled up with padding, which is no part of it.
    assert ends(llama, [stop, other], 6, stop_strings=["."], eos_token_id=other[4])[0] == (tuple(until), "stop_string")


def test_stop_strings_need_no_tokenizer_and_are_found_by_those_of_a_config(llama: LiveModel) -> None:
    assert len(llama.generate(PROMPTS[:1], stop_strings=[], max_new_tokens=2)) == 1, "none at all"
    assert llama.generate(PROMPTS[:1], stop_strings="d", logits_processor=forced(llama, PROMPTS[:1], ["abcdef"])) == [
        "abcd"
    ]
    config = GenerationConfig(stop_strings=["c"], pad_token_id=0)
    assert [reason for _, reason in ends(llama, ["abcdef"], 9, generation_config=config)] == ["stop_string"]
    both = ends(llama, ["abcdef", "fedcba"], 9, stop_strings=["b", "e"], num_return_sequences=2, do_sample=True)
    assert [(len(ids), reason) for ids, reason in both] == [(2, "stop_string")] * 4
    own = llama.chat.tokenizer
    assert ends(llama, ["abcdef"], 9, stop_strings="c", tokenizer=own) == ends(llama, ["abcdef"], 9, stop_strings="c")


@pytest.mark.parametrize("more", [{}, {"stop_strings": "never"}, {"num_beams": 2}])
def test_real_tokens_that_fill_rows_up_are_kept(llama: LiveModel, more: dict[str, Any]) -> None:
    # Nothing but its length ends a row, so that no token of it is padding.
    assert ends(llama, [[5, 0, 0]], 3, eos_token_id=None, pad_token_id=0, **more) == [((5, 0, 0), "length")]


def test_what_fills_up_a_beam_that_a_text_ended_is_no_part_of_it(llama: LiveModel) -> None:
    short, long = ends(llama, ["ab", "xyzxyz"], 6, stop_strings="b", num_beams=2, eos_token_id=None, pad_token_id=0)
    assert short == (tuple(llama.chat.tokenizer.encode("ab", add_special_tokens=False)), "stop_string")
    assert len(long[0]) == 6 and long[1] == "length"


def test_criteria_of_ones_own_stop_rows(llama: LiveModel) -> None:
    def third(ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.tensor([ids.shape[1] - columns >= 3, False])

    columns = len(llama.chat.render(PROMPTS[0]).token_ids)
    found = ends(llama, ["abcdef", "uvwxyz"], 5, stopping_criteria=StoppingCriteriaList([third]))  # type: ignore[list-item]
    assert [(len(ids), reason) for ids, reason in found] == [(3, "stopped"), (5, "length")]
    (soon,) = llama.completions("x", max_new_tokens=400, max_time=1e-9)
    assert soon.finish_reason == "stopped" and len(soon.token_ids) < 400


def test_beams_say_why_they_end(llama: LiveModel) -> None:
    whole = llama.completions("x", max_new_tokens=6, num_beams=2)[0]
    assert (len(whole.token_ids), whole.finish_reason) == (6, "length")
    ended = llama.completions("x", max_new_tokens=6, num_beams=2, eos_token_id=whole.token_ids[2])[0]
    assert ended.finish_reason in ("end_token", "length")
    # A token that fills up is one of the text where nothing ends rows one by one.
    last = llama.completions("x", max_new_tokens=6, num_beams=2, pad_token_id=whole.token_ids[-1])[0]
    assert last.token_ids == whole.token_ids


def test_stop_strings_that_cannot_be_found_are_refused(llama: LiveModel) -> None:
    for wrong in ("", ["a", ""], 3, [3]):
        with pytest.raises(DataError, match="none of them empty"):
            llama.generate("x", stop_strings=wrong)
    with pytest.raises(DataError, match="A stop string holds half of a surrogate pair"):
        llama.generate("x", stop_strings=["a", "\ud83d"])
    bare = wrap(llama.model, self_test=False)
    with pytest.raises(ModelError, match="came without a tokenizer"):
        bare.complete(torch.tensor([[5, 6]]), max_new_tokens=2, stop_strings="a")


def test_end_tokens_may_be_a_tensor_and_criteria_are_a_list(llama: LiveModel) -> None:
    written = llama.completions("hello", max_new_tokens=4)[0].token_ids
    ends = torch.tensor([written[1], written[1]])
    assert (
        llama.completions("hello", max_new_tokens=4, eos_token_id=ends)[0].token_ids
        == written[: written.index(written[1])]
    )
    with pytest.raises(DataError, match="stopping_criteria is a list of them, not a function"):
        llama.generate("hello", max_new_tokens=4, stopping_criteria=lambda ids, scores: False)


def test_a_row_ends_at_its_stop_string_and_no_other(llama: LiveModel) -> None:
    tokenizer = llama.chat.tokenizer
    until = StopTexts(["b"], tokenizer, 2)
    written = [tokenizer.encode(text, add_special_tokens=False)[0] for text in "abc"]
    ends = [until(torch.tensor([[7, 8, *written[:n]], [7, 8, *([written[0]] * n)]]), None).tolist() for n in (1, 2, 3)]
    assert ends == [[False, False], [True, False], [True, False]]


def test_a_stop_string_that_begins_in_the_prompt_ends_no_answer(llama: LiveModel) -> None:
    (prompt,) = llama.rendered("hello")
    end = llama.chat.tokenizer.decode(prompt.token_ids)[-4:]
    written = llama.completions("hello", max_new_tokens=3, logits_processor=forced(llama, ["hello"], ["abc"]))[0]
    stopped = llama.completions(
        "hello", max_new_tokens=3, stop_strings=[end + "a"], logits_processor=forced(llama, ["hello"], ["abc"])
    )[0]
    assert (stopped.token_ids, stopped.finish_reason) == (written.token_ids, written.finish_reason)
