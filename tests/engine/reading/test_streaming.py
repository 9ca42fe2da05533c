"""Streams: the same tokens as without one, text of whole characters, and a model that is free once one is closed."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from transformers import LogitsProcessorList

import steerkit
from steerkit.api.direction import Direction
from steerkit.api.monitor import Completion, Monitor, TokenEvent
from steerkit.engine.reading.streaming import UNFINISHED, Stream, _complete
from steerkit.errors import AttachError, DataError, ModelError
from steerkit.session import ablate, add
from steerkit.session.model import LiveModel
from steerkit.types import Site
from tests.conftest import assert_clean, tiny_live
from tests.engine.forced import Forced, forced

PROMPTS = ["one", "two words here", "and a third prompt of some length"]


def direction(live: LiveModel, seed: int = 0) -> Direction:
    vector = torch.randn(1, live.layout.d_model, generator=torch.Generator().manual_seed(seed))
    return Direction(vector, Site.parse("blocks.1.resid_post"), name="d")


def writes(live: LiveModel, prompts: Sequence[str], texts: Sequence[str]) -> tuple[Forced, int]:
    """What has it write these texts, and the tokens of the longest."""
    made = forced(live, prompts, texts)
    return made, max(map(len, made.rows))


def by_row(events: Sequence[TokenEvent]) -> dict[tuple[int, int], list[TokenEvent]]:
    rows = defaultdict(list)
    for one in events:
        rows[one.prompt, one.sequence].append(one)
    return rows


def check_like(events: Sequence[TokenEvent], expected: Sequence[Completion], copies: int = 1) -> None:
    rows = by_row(events)
    assert sorted(rows) == [(at // copies, at % copies) for at in range(len(expected))]
    for row, whole in zip((rows[key] for key in sorted(rows)), expected, strict=True):
        assert [one.finish_reason for one in row[:-1]] == [None] * (len(row) - 1)
        assert row[-1].finish_reason == whole.finish_reason is not None
        assert row[-1].completion is not None
        assert (row[-1].completion.text, row[-1].completion.token_ids) == (whole.text, whole.token_ids)
        ids = [one.token_id for one in row]
        assert tuple(ids[:-1] if whole.finish_reason == "end_token" else ids) == whole.token_ids
        assert "".join(one.added for one in row) == row[-1].text == _complete(whole.text)
        assert all(row[-1].text.startswith(one.text) and not one.text.endswith(UNFINISHED) for one in row)


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "qwen3_moe"])
@pytest.mark.parametrize("batch_tokens", [4096, 40])
def test_a_stream_writes_what_completions_are(model_type: str, batch_tokens: int) -> None:
    live = tiny_live(model_type)
    kept, live.batch_tokens = live.batch_tokens, batch_tokens
    try:
        # An end that some rows come to and others don't.
        rows = [one.token_ids for one in live.completions(PROMPTS, max_new_tokens=9)]
        ends = next(one for row in rows for one in row[1:] if 0 < sum(one in other for other in rows) < 3)
        for settings in ({}, {"eos_token_id": ends}, {"do_sample": True, "num_return_sequences": 2, "top_k": 20}):
            torch.manual_seed(3)
            expected = live.completions(PROMPTS, max_new_tokens=9, **settings)
            torch.manual_seed(3)
            events = list(live.generate(PROMPTS, max_new_tokens=9, stream=True, **settings))
            check_like(events, expected, settings.get("num_return_sequences", 1))
            reasons = {one.finish_reason for one in expected}
            assert reasons == {"end_token", "length"} or settings != {"eos_token_id": ends}
    finally:
        live.batch_tokens = kept


def test_rows_that_leave_their_batch_are_told_as_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    from steerkit.engine.runtime import beginning, leaving

    live = tiny_live("llama")
    for name, value in (("SPARED", 1), ("EVERY", 1)):
        monkeypatch.setattr(leaving, name, value)
    segments: list[int] = []
    complete = beginning.complete_leaving

    def noted(*args: Any, **kwargs: Any) -> Any:
        segments.append(1)
        return complete(*args, **kwargs)

    monkeypatch.setattr(beginning, "complete_leaving", noted)
    monkeypatch.setattr(live.model.generation_config, "eos_token_id", 102)
    prompts = [f"{'a long beginning that all of them share, ' * 4}{end}" for end in ("x", "yy", "z z z", "w", "v")]
    expected = live.completions(prompts, max_new_tokens=12)
    assert segments, "the beginning wasn't shared"
    assert {one.finish_reason for one in expected} >= {"end_token"}
    check_like(list(live.generate(prompts, max_new_tokens=12, stream=True)), expected)


def test_no_event_holds_half_a_character(llama: LiveModel) -> None:
    texts = ["ünïcode 🐈 and 漢字!", "é🐈🐈 x"]
    prompts = ["one", "two"]  # of one length, so that they keep their order
    script, length = writes(llama, prompts, texts)
    events = list(llama.generate(prompts, stream=True, max_new_tokens=length, logits_processor=script))
    rows = by_row(events)
    assert rows[0, 0][-1].text == texts[0] and length > len(texts[0]), "some characters are several tokens"
    for row, text in zip((rows[0, 0], rows[1, 0]), texts, strict=True):
        assert all(UNFINISHED not in one.text for one in row) and row[-1].text.startswith(text)
        assert all(text.startswith(one.text) or one.text.startswith(text) for one in row)
    script, _ = writes(llama, prompts[:1], texts[:1])
    # The end falls into the midst of a character.
    cut = list(llama.generate(prompts[:1], stream=True, max_new_tokens=11, logits_processor=script))
    assert cut[-1].text == "ünïcode" and cut[-1].completion is not None
    assert cut[-1].completion.text.endswith(UNFINISHED)


def test_a_word_that_a_tokenizer_may_still_change_is_waited_for(
    llama: LiveModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama.chat.tokenizer, "clean_up_tokenization_spaces", True, raising=False)
    script, length = writes(llama, PROMPTS[:1], ["he did n't say so ."])
    events = list(llama.generate(PROMPTS[:1], stream=True, max_new_tokens=length, logits_processor=script))
    assert all(events[-1].text.startswith(one.text) for one in events)
    assert "".join(one.added for one in events) == events[-1].text
    assert events[-1].completion is not None and events[-1].text == events[-1].completion.text


def test_readings_come_with_the_tokens(llama: LiveModel) -> None:
    watch = Monitor("d", direction(llama), 0.3)
    expected = llama.completions(PROMPTS, monitors=[watch], max_new_tokens=6)
    rows = by_row(list(llama.generate(PROMPTS, monitors=[watch], max_new_tokens=6, stream=True)))
    for index, whole in enumerate(expected):
        final, prompt = whole.readings["d"].values, whole.readings["d"].prompt_tokens
        for at, one in enumerate(rows[index, 0]):
            values = one.readings["d"].values
            # The token itself has not been read by any pass.
            assert len(values) == prompt + at + 1 and values[-1] != values[-1]
            assert values[:-1] == final[: len(values) - 1]
            assert one.crossed == (max(values[:-1]) > 0.3)
        assert rows[index, 0][-1].completion is not None


def test_what_is_active_where_it_is_made_steers_it(llama: LiveModel) -> None:
    conditions = [None, add(direction(llama), coefficient=9.0), ablate(direction(llama))]
    with llama.steer(add(direction(llama, 1), coefficient=9.0)):
        plain, rows = llama.completions(PROMPTS, max_new_tokens=6), llama.completions(PROMPTS, steer=conditions)
        check_like(list(llama.generate(PROMPTS, max_new_tokens=6, stream=True)), plain)
        check_like(list(llama.generate(PROMPTS, steer=conditions, stream=True)), rows)
        made = llama.generate(PROMPTS, max_new_tokens=6, stream=True)
        with llama.steer(add(direction(llama, 2), coefficient=9.0)):
            check_like(list(made), plain)
    assert [one.token_ids for one in plain] != [one.token_ids for one in llama.completions(PROMPTS, max_new_tokens=6)]


@pytest.mark.parametrize("mode", ["fold", "hook"])
def test_leaving_the_block_ends_the_stream(llama: LiveModel, mode: Any) -> None:
    with llama.steer(add(direction(llama)), mode=mode):
        begun, waiting = (llama.generate(PROMPTS, max_new_tokens=400, stream=True) for _ in range(2))
        next(begun)
    assert_clean(llama)
    with pytest.raises(AttachError, match="has been left"):
        list(begun)
    with pytest.raises(AttachError, match="has been left"):
        next(waiting)
    assert list(begun) == [] == list(waiting)


@pytest.mark.parametrize("end", ["close", "with", "break"])
def test_a_closed_stream_leaves_the_model_free_and_as_it_was(llama: LiveModel, end: str) -> None:
    condition = [add(direction(llama), coefficient=2.0)] * 3
    passes: list[int] = []
    counter = llama.model.lm_head.register_forward_hook(lambda *_: passes.append(1))
    stream = llama.generate(PROMPTS, max_new_tokens=400, stream=True, steer=condition)
    if end == "with":
        with stream as events:
            next(events)
    else:
        next(stream)
        stream.close() if end == "close" else stream.__del__()
    threads = [one for one in threading.enumerate() if one.name == "steerkit-stream"]
    if end == "break":
        for one in threads:
            one.join(30)
    else:
        assert not threads
        assert list(stream) == []
    assert 0 < len(passes) < 400
    counter.remove()
    assert_clean(llama)
    assert llama.steering.shared.turns.holder is None
    found: list[list[str]] = []
    other = threading.Thread(target=lambda: found.append(llama.generate(PROMPTS[:1], max_new_tokens=2)))
    other.start()
    other.join(60)
    assert found


def test_a_stream_that_nobody_holds_ends(llama: LiveModel) -> None:
    for _ in llama.generate(PROMPTS, max_new_tokens=400, stream=True):
        break
    gc.collect()
    for one in [one for one in threading.enumerate() if one.name == "steerkit-stream"]:
        one.join(30)
        assert not one.is_alive()


def test_requests_in_the_loop_are_served(llama: LiveModel) -> None:
    alone = llama.generate(["other"], max_new_tokens=3)
    expected = llama.completions(PROMPTS, max_new_tokens=5)
    events = []
    for one in llama.generate(PROMPTS, max_new_tokens=5, stream=True):
        assert llama.generate(["other"], max_new_tokens=3) == alone
        events.append(one)
    check_like(events, expected)


def test_what_goes_wrong_in_its_thread_is_raised_in_the_loop(llama: LiveModel) -> None:
    def fails(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if ids.shape[1] > columns + 2:
            raise ZeroDivisionError("at the third token")
        return scores

    columns = len(llama.chat.render(PROMPTS[0]).token_ids)
    steer = [add(direction(llama))]
    stream = llama.generate(
        PROMPTS[0],
        stream=True,
        steer=steer,
        logits_processor=LogitsProcessorList([fails]),  # type: ignore[list-item]
    )
    got: list[TokenEvent] = []
    with pytest.raises(ZeroDivisionError, match="at the third token"):
        got.extend(stream)
    assert list(stream) == []
    assert_clean(llama)


def test_inside_of_a_hook_it_is_refused(llama: LiveModel) -> None:
    def hook(module: object, args: object, output: object) -> None:
        next(llama.generate("x", stream=True))

    handle = llama.model.lm_head.register_forward_hook(hook)
    try:
        with pytest.raises(AttachError, match="Take its events outside of passes"):
            llama.forward(["hello"])
    finally:
        handle.remove()


def test_autocast_goes_with_it(llama: LiveModel) -> None:
    seen: list[Any] = []
    hook = llama.model.lm_head.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            list(llama.generate("x", max_new_tokens=2, stream=True))
    finally:
        hook.remove()
    assert seen == [True, True]


def test_wrong_wishes_are_told_when_it_is_made(llama: LiveModel) -> None:
    watch = Monitor("d", direction(llama), 0.3)
    with pytest.raises(ModelError, match="nothing to stream"):
        llama.generate("x", stream=True, num_beams=2)
    with pytest.raises(DataError, match="at least 1"):
        llama.generate("x", stream=True, max_new_tokens=0)
    with pytest.raises(DataError, match="no prompts"):
        llama.generate([], stream=True)
    with pytest.raises(DataError, match="True or False"):
        llama.generate("x", stream="yes")  # type: ignore[call-overload]
    with pytest.raises(DataError, match="hold no readings"):
        llama.generate("x", monitors=[watch])
    with pytest.raises(AttachError, match="one condition per prompt"):
        llama.generate("x", stream=True, steer=[None, None])


def test_a_program_ends_though_a_stream_is_open() -> None:
    code = (
        "import steerkit, time\n"
        "live = steerkit.load_model('tiny-random:llama')\n"
        "live.model.lm_head.register_forward_hook(lambda *_: time.sleep(0.4))\n"
        "stream = live.generate('x', max_new_tokens=400, stream=True)\n"
        "print(next(stream).prompt)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr.strip()) == (0, "0", "")


def test_it_is_an_iterator_with_a_name(llama: LiveModel) -> None:
    stream = llama.generate("x", max_new_tokens=1, stream=True)
    assert isinstance(stream, Stream) and isinstance(stream, Iterator)
    assert isinstance(next(stream), steerkit.TokenEvent)
    stream.close()


def test_two_threads_may_share_a_stream_and_both_end(llama: LiveModel) -> None:
    expected = llama.completions(["hello"], max_new_tokens=6)[0]
    stream = llama.generate("hello", stream=True, max_new_tokens=6)
    taken: list[TokenEvent] = []
    threads = [threading.Thread(target=lambda: taken.extend(stream), daemon=True) for _ in range(2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(30)
    assert not any(one.is_alive() for one in threads)
    assert sorted(event.token_id for event in taken) == sorted(expected.token_ids)


def test_streams_that_are_dropped_leave_nothing_in_their_block(llama: LiveModel) -> None:
    with llama.steer(add(direction(llama))):
        for _ in range(5):
            llama.generate("hello", stream=True, max_new_tokens=2)
        gc.collect()
        (block,) = llama.steering.shared.blocks
        assert not list(block.wishes)


def test_a_stream_that_outlives_the_main_thread_is_cut_off_with_a_sentence(
    llama: LiveModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = llama.generate("hello", stream=True, max_new_tokens=6)
    next(stream)
    over = threading.Thread(target=lambda: None)
    monkeypatch.setattr(threading, "main_thread", lambda: over)
    with pytest.raises(AttachError, match="main thread has ended"):
        list(stream)
