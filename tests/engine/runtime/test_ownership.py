"""A pass knows whom it serves: each request of each thread gets what it gets alone."""

from __future__ import annotations

import contextlib
import contextvars
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from steerkit.api.intervention import Affine, Pointwise
from steerkit.engine.runtime.turns import Ticket
from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from steerkit.errors import AttachError, SteerkitError
from steerkit.session import wrap
from steerkit.session.model import LiveModel
from tests.engine.conditions import MODES, Given, Trace, vectors
from tests.engine.hooking.test_no_trace import Stop, eager_switching

IDS = torch.tensor([[2, 70, 71, 72, 73, 74], [2, 75, 74, 73, 72, 71]])
PROMPTS = ["ab", "cabbage"]
SITE = "blocks.1.resid_pre"


def fresh(model_type: str = "llama") -> LiveModel:
    return wrap(tiny_model(model_type, n_layers=2, seed=5), tiny_tokenizer(), self_test=False)


def add(seed: int, positions: str = "all", site: str = SITE) -> Given:
    return Given({site: Affine(bias=3 * vectors(32, 1, seed)[0])}, positions)


@torch.no_grad()
def bare(live: LiveModel) -> Tensor:
    found: Tensor = live.hf_model(input_ids=IDS, use_cache=False).logits
    return found


@torch.no_grad()
def logits(live: LiveModel, **more: Any) -> Tensor:
    return live.forward(IDS, use_cache=False, **more).logits


def elsewhere(function: Callable[[], Any]) -> Any:
    """What a function gives in a thread that carries nothing."""
    got: list[Any] = []

    def run() -> None:
        try:
            got.append(function())
        except BaseException as error:
            got.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "it waits for a block"
    if isinstance(got[0], BaseException):
        raise got[0]
    return got[0]


@pytest.mark.parametrize("mode", MODES)
def test_a_block_belongs_to_the_context_that_entered_it(mode: Any) -> None:
    live = fresh()
    trace, plain = Trace(live.model), logits(live)
    alone = logits(live, steer=[add(2), add(2)])

    def own() -> Tensor:
        with live.steer(add(2), mode=mode):
            return bare(live)

    with live.steer(add(1), mode=mode):
        mine = bare(live)
        assert not torch.allclose(mine, plain, atol=1e-2)
        for call in (lambda: bare(live), lambda: logits(live), lambda: live.generate(PROMPTS, max_new_tokens=2)):
            with pytest.raises(SteerkitError, match="copy_context"):
                elsewhere(call)
        with pytest.raises(SteerkitError, match="copy_context"):
            elsewhere(lambda: live.hf_model.generate(IDS, max_new_tokens=2))
        with pytest.raises(SteerkitError, match="copy_context"):
            elsewhere(lambda: live.capture(PROMPTS, SITE, progress=False))
        assert torch.equal(elsewhere(lambda: logits(live, steer=[add(2), add(2)])), alone)
        assert torch.equal(elsewhere(lambda: logits(live, steer=[None, None])), plain)
        assert torch.allclose(elsewhere(own), alone, atol=1e-4)
        for call in (lambda: bare(live), lambda: logits(live)):
            context = contextvars.copy_context()
            assert torch.equal(elsewhere(lambda call=call, context=context: context.run(call)), mine)  # type: ignore[misc]
        assert torch.equal(bare(live), mine) and torch.equal(logits(live), mine), "the block's program is back"
        assert torch.equal(context.run(lambda: bare(live)), mine)
    assert torch.equal(context.run(lambda: bare(live)), plain), "a context outlives the block"
    assert torch.equal(elsewhere(lambda: bare(live)), plain)
    trace.check()


def test_two_blocks_of_two_contexts_are_open_at_once() -> None:
    live = fresh()
    trace = Trace(live.model)
    alone = {seed: logits(live, steer=[add(seed)] * 2) for seed in (1, 2)}
    barrier = threading.Barrier(2)
    right: list[bool] = []

    def work(seed: int) -> None:
        mode: Any = "fold" if seed == 1 else "hook"
        with live.steer(add(seed), mode=mode):
            barrier.wait()
            for _ in range(10):
                right.append(torch.allclose(bare(live), alone[seed], atol=1e-4))
                right.append(torch.allclose(logits(live), alone[seed], atol=1e-4))
            barrier.wait()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    with eager_switching():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert right == [True] * 40
    trace.check()


def test_a_streamer_is_served_in_a_thread_that_carries_the_context() -> None:
    from transformers import TextIteratorStreamer

    live = fresh()
    with live.steer(add(1)):
        expected = live.generate(PROMPTS[:1], max_new_tokens=4)
        for carry in (contextvars.copy_context().run, None):
            streamer: Any = TextIteratorStreamer(tiny_tokenizer(), skip_prompt=True, timeout=60)
            given: dict[str, Any] = {"max_new_tokens": 4, "streamer": streamer}
            if carry is None:
                assert live.generate(PROMPTS[:1], **given) == expected, "in the caller's own thread"
                continue
            thread = threading.Thread(target=carry, args=(live.generate, PROMPTS[:1]), kwargs=given)
            thread.start()
            assert "".join(streamer).strip() == expected[0]
            thread.join()


def test_two_wraps_of_one_model_share_what_is_on_it() -> None:
    one = fresh()
    two = wrap(one.hf_model, tiny_tokenizer(), self_test=False)
    trace, plain = Trace(one.model), logits(one)
    with one.steer(add(1), add(2)):
        both = logits(one)
    for modes in (("fold", "fold"), ("fold", "hook"), ("hook", "fold")):
        first, second = one.steer(add(1), mode=modes[0]), two.steer(add(2), mode=modes[1])  # type: ignore[arg-type]
        first.__enter__()
        second.__enter__()
        assert torch.allclose(logits(one), both, atol=1e-4) and torch.allclose(logits(two), both, atol=1e-4)
        first.__exit__(None, None, None)
        assert torch.allclose(logits(one), logits(one, steer=[None, None]))
        second.__exit__(None, None, None)
        trace.check()
        assert torch.equal(logits(two), plain)


def test_a_pass_that_waited_while_others_were_served_is_steered_like_any() -> None:
    live = fresh()
    turns = live.steering.shared.turns
    for other in ([None, None], [add(2), add(3, "[0]")]):
        with live.steer(add(1, "[1,2]"), mode="hook"):
            expected, got = bare(live), []
            with turns.taken():
                context = contextvars.copy_context()
                thread = threading.Thread(target=lambda: got.append(context.run(bare, live)))  # noqa: B023
                thread.start()
                while len(turns._queue) < 2:
                    time.sleep(0.001)
                # Meanwhile the hooks that the pass began with come off, and on again.
                logits(live, steer=other)
            thread.join(30)
            assert len(got) == 1 and torch.equal(got[0], expected)


def test_a_turn_is_not_taken_from_a_call_that_goes_on() -> None:
    """Not from a call that runs or waits for what it called, whoever looks; from one that has ended, also by an error,
    and from a thread that is gone."""
    tickets: list[Ticket] = []
    inside, go_on = threading.Event(), threading.Event()

    def waits() -> None:
        tickets.append(Ticket(threading.get_ident(), sys._getframe(), bare=True))
        inside.set()
        go_on.wait()

    def fails() -> None:
        tickets.append(Ticket(threading.get_ident(), sys._getframe(), bare=True))
        assert not tickets[-1].stale
        raise KeyboardInterrupt

    thread = threading.Thread(target=waits)
    thread.start()
    inside.wait()
    assert not tickets[0].stale
    go_on.set()
    thread.join()
    assert tickets[0].stale
    with pytest.raises(KeyboardInterrupt):
        fails()
    assert tickets[1].stale


@pytest.mark.parametrize("how", ["request", "pass", "failing pass"])
def test_what_a_hook_runs_inside_of_a_pass_leaves_that_pass_its_turn(how: str) -> None:
    """A request inside of somebody's own pass is refused; a pass of the model itself is steered as its block says."""
    live = fresh()
    trace, shared = Trace(live.model), live.steering.shared
    got: list[Any] = []

    def fail(*given: Any) -> None:
        raise Stop

    def inside(*given: Any) -> None:
        handle.remove()
        ticket = shared.turns.holder
        if how == "request":
            for call in (lambda: logits(live, steer=[add(2)] * 2), lambda: live.generate(PROMPTS, max_new_tokens=2)):
                with pytest.raises(AttachError, match="A request inside of a pass"):
                    call()
        elif how == "pass":
            got.append(bare(live))
        else:
            other = live.model.get_submodule("model.layers.1").register_forward_hook(fail)
            with pytest.raises(Stop):
                bare(live)
            other.remove()
        assert ticket is not None and shared.turns.holder is ticket and shared.turns.mine

    with live.steer(add(1), mode="hook"):
        expected = bare(live)
        handle = live.model.get_submodule("model.layers.0").register_forward_hook(inside)
        assert torch.equal(bare(live), expected)
        assert shared.turns.holder is None
        assert all(torch.equal(one, expected) for one in got) and len(got) == (how == "pass")
        alone = logits(live, steer=[add(2)] * 2)
        assert not torch.allclose(alone, expected, atol=1e-2)
        # A pass that a request runs is the request's own, and so is what its hooks ask for.
        nested: list[Tensor] = []

        def asked(*given: Any) -> None:
            again.remove()
            nested.append(logits(live, steer=[add(2)] * 2))

        again = live.model.get_submodule("model.layers.0").register_forward_hook(asked)
        assert torch.equal(logits(live), expected) and torch.equal(nested[0], alone)
    trace.check()


# The soak


def requests(live: LiveModel) -> dict[str, Callable[[], Any]]:
    """Requests of every kind, each with its condition."""
    rows = [[add(3, "generated")], None]

    def failing() -> None:
        def stop(x: Tensor) -> Tensor:
            raise Stop

        with contextlib.suppress(Stop):
            logits(live, steer=[Given({"blocks.1.mlp_out": Pointwise(stop)}), None])

    def block(mode: Any, *conditions: Given) -> list[Any]:
        with live.steer(*conditions, mode=mode):
            return [logits(live, prompt_lengths=[3, 3]).tolist(), live.generate(PROMPTS, max_new_tokens=3)]

    def read() -> Any:
        found = live.capture(PROMPTS, SITE, "all", steer=[add(1), None], progress=False)
        return [statistics.mean.tolist() for statistics in found.values()]

    return {
        "forward": lambda: logits(live, steer=[add(1), add(2)]).tolist(),
        "positions": lambda: logits(live, prompt_lengths=[3, 4], steer=rows).tolist(),
        "plain": lambda: logits(live, steer=[None, None]).tolist(),
        "generate": lambda: live.generate(PROMPTS, max_new_tokens=4, steer=rows),
        "beams": lambda: live.generate(PROMPTS, max_new_tokens=3, num_beams=2, steer=[add(1, "from_token(#72)"), None]),
        "capture": read,
        "fold": lambda: block("fold", add(1), add(2)),
        "hook": lambda: block("hook", add(2), add(3, "generated")),
        "interpret": lambda: block("interpret", add(2, "[1,2]")),
        "fails": failing,
    }


def soak(n_threads: int, n_requests: int) -> None:
    live = fresh()
    trace, asked = Trace(live.model), requests(live)
    alone = {name: request() for name, request in asked.items()}
    names = [random.Random(1).choice(sorted(asked)) for _ in range(n_requests)]
    wrong: list[str] = []
    barrier = threading.Barrier(n_threads)

    def work(place: int) -> None:
        barrier.wait()
        for name in names[place::n_threads]:
            try:
                if asked[name]() != alone[name]:
                    wrong.append(name)
            except BaseException as error:
                wrong.append(f"{name}: {error!r}")

    threads = [threading.Thread(target=work, args=(place,)) for place in range(n_threads)]
    with eager_switching():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong, wrong[:3]
    trace.check()
    shared = live.steering.shared
    assert not shared.blocks and not shared.states and not shared.served and shared.turns.holder is None
    assert {name: request() for name, request in asked.items()} == alone


def test_a_short_soak() -> None:
    soak(8, 160)


@pytest.mark.slow
def test_a_soak_of_two_thousand_requests() -> None:
    soak(8, 2000)
