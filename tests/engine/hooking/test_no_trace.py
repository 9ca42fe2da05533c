"""The model that comes out is the one that went in: after exceptions, interrupts at any moment, and beside others."""

from __future__ import annotations

import ctypes
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steerkit.api.intervention import Affine, Pointwise
from steerkit.engine.hooking import compiled
from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from steerkit.session import wrap
from steerkit.session.model import LiveModel
from tests.engine.conditions import MODES, Given, Trace, differential_model, trace_of, vectors

IDS = torch.tensor([[2, 70, 71, 72, 73, 74], [2, 75, 74, 73, 72, 71]])
PROMPTS = ["ab", "cabbage"]
TYPES = ("llama", "gemma", "qwen3_moe")
"""Biases everywhere; a head tied to its embedding; experts stacked in one parameter."""


class Stop(Exception):
    """What is thrown into the middle of something."""


SWALLOWED = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""Python swallows what falls into a destructor or a callback of a weak reference, and pytest says so."""


def everything(live: LiveModel) -> list[Given]:
    """A condition that folds, hooks, carries a sum, adds biases and asks for positions."""
    v = torch.nn.functional.normalize(vectors(live.layout.d_model, 2, 1), dim=1)
    writers = {str(site): Affine(-v[:1], v[:1]) for site in live.layout.writer_sites()}
    return [
        Given(writers),
        Given({"blocks.0.resid_mid": Pointwise(torch.tanh)}),
        Given({"blocks.1.resid_pre": Affine(bias=2 * v[1])}),
        Given({"blocks.1.resid_post": Affine(bias=v[1])}, "generated", schedule="exponential(0.5)"),
    ]


def logits(live: LiveModel, **more: Any) -> Tensor:
    with torch.no_grad():
        return live.forward(IDS, **more).logits


# Exceptions in the body


class Bomb:
    """A logits processor that throws at a step of generating."""

    def __init__(self, step: int) -> None:
        self.left = step

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.left == 0:
            raise Stop
        self.left -= 1
        return scores


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model_type", TYPES)
def test_an_exception_inside_generate(model_type: str, mode: Any) -> None:
    live, trace = differential_model(model_type), trace_of(model_type)
    plain, condition = logits(live), everything(live)
    for step in range(4):
        with pytest.raises(Stop), live.steer(*condition, mode=mode):
            live.complete(PROMPTS, max_new_tokens=4, logits_processor=[Bomb(step)])
        trace.check()
        with pytest.raises(Stop), live.steer(*condition[:1], mode=mode):
            live.complete(PROMPTS, max_new_tokens=4, logits_processor=[Bomb(step)], steer=[condition[1:], None])
        trace.check()
    assert torch.equal(logits(live), plain)


@pytest.mark.parametrize("mode", MODES)
def test_an_exception_inside_a_pass(mode: Any) -> None:
    """Thrown by a function of an intervention, and by one of the model's own modules."""
    live, trace = differential_model("llama"), trace_of("llama")
    plain, condition = logits(live), everything(live)
    calls = 0

    def fail(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise Stop
        return x

    for site in ("embed", "blocks.0.resid_mid", "blocks.1.mlp_out"):
        calls = 0
        with pytest.raises(Stop), live.steer(*condition, Given({site: Pointwise(fail)}), mode=mode):
            live.complete(PROMPTS, max_new_tokens=4)
        trace.check()
    final_norm = live.model.get_submodule(live.layout.final_norm)

    def refuse(*args: Any) -> None:
        raise Stop

    handle = final_norm.register_forward_pre_hook(refuse)
    try:
        with live.steer(*condition, mode=mode):
            with pytest.raises(Stop):
                logits(live, prompt_lengths=[3, 3])
            handle.remove()
            after = logits(live, prompt_lengths=[3, 3])
    finally:
        handle.remove()
    with live.steer(*condition, mode=mode):
        assert torch.equal(logits(live, prompt_lengths=[3, 3]), after), "a pass that failed changes no later one"
    trace.check()
    assert torch.equal(logits(live), plain)


# Exceptions while a program is put on or taken off


@contextmanager
def failing_registration(monkeypatch: pytest.MonkeyPatch, k: int) -> Iterator[list[int]]:
    """The k-th hook that anyone registers raises; yields how many were asked for."""
    asked = [0]

    def wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
        def register(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            asked[0] += 1
            if asked[0] == k + 1:
                raise Stop
            return original(self, *args, **kwargs)

        return register

    with monkeypatch.context() as patch:
        for name in ("register_forward_hook", "register_forward_pre_hook"):
            patch.setattr(nn.Module, name, wrapped(getattr(nn.Module, name)))
        patch.setattr(compiled, "register_hook", wrapped(compiled.register_hook))
        yield asked


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model_type", TYPES)
def test_an_exception_at_every_registration(model_type: str, mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever hook can't be registered, an outer context goes on as it was, and then nothing is left of it either."""
    live, trace = differential_model(model_type), trace_of(model_type)
    outer, condition = Given({"blocks.0.mlp_out": Affine(bias=vectors(live.layout.d_model, 1)[0])}), everything(live)
    with live.steer(outer, mode=mode):
        steered = logits(live)
    for k in range(200):
        with live.steer(outer, mode=mode):
            with failing_registration(monkeypatch, k) as asked:
                try:
                    with live.steer(*condition, mode=mode):
                        pass
                except Stop:
                    pass
            assert torch.equal(logits(live), steered), f"registration {k}"
        trace.check()
        if asked[0] <= k:
            break
    assert k > 1, "no registration failed, so this test says nothing"


@contextmanager
def throwing(event: str, n: int) -> Iterator[list[int]]:
    """Throw at the n-th line of the engine, or the n-th call into it or of a ``with``; yields how many there were."""
    seen = [0]

    def trace(frame: FrameType, kind: str, _: Any) -> Any:
        path = frame.f_code.co_filename.replace("\\", "/")
        if "steerkit/engine/" not in path and (event == "line" or not path.endswith("/contextlib.py")):
            return None
        if kind == event:
            seen[0] += 1
            if seen[0] == n + 1:
                raise Stop
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield seen
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("mode", MODES)
def test_an_exception_at_any_line_of_attaching(mode: Any) -> None:
    live, trace = differential_model("gemma"), trace_of("gemma")
    condition = everything(live)
    with throwing("line", -2) as lines, live.steer(*condition, mode=mode):
        total = lines[0]
    assert total > 50
    generator = random.Random(0)
    # Lowering touches nothing and has most of the lines; what comes last puts the program on.
    for n in sorted({*generator.sample(range(total), min(total, 40)), *range(max(0, total - 60), total)}):
        try:
            with throwing("line", n):
                context = live.steer(*condition, mode=mode)
                context.__enter__()
        except Stop:
            pass
        else:
            context.__exit__(None, None, None)
        trace.check()


@SWALLOWED
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("what", ["nothing", "forward", "rows"])
def test_an_exception_at_any_call(what: str, mode: Any) -> None:
    """An interrupt comes where a function begins, also where a ``with`` is just about to be left or taking off begins.

    What was to be left is then left later than what is around it.
    """
    live, trace = differential_model("gemma"), trace_of("gemma")
    condition = everything(live)

    def body() -> None:
        with live.steer(*condition[:2], mode=mode):
            if what == "forward":
                logits(live, prompt_lengths=[3, 3])
            if what == "rows":
                logits(live, prompt_lengths=[3, 3], steer=[condition[2:], None])

    with throwing("call", -2) as seen:
        body()
    total = seen[0]
    assert total > 10
    generator = random.Random(0)
    for n in sorted({*generator.sample(range(total), min(total, 40)), *range(max(0, total - 60), total)}):
        try:
            with throwing("call", n):
                body()
        except Stop:
            pass
        trace.check()


def test_contexts_that_close_in_another_order(llama: LiveModel) -> None:
    """As they do where an interrupt keeps an inner one from closing: each takes off its own, and nothing comes back."""
    condition, plain = everything(llama), logits(llama)
    for steer in (None, [condition[2:], None]):
        outer, inner = llama.steer(*condition[:1]), llama.steering.running(None, steer=steer)
        outer.__enter__()
        inner.__enter__()
        outer.__exit__(None, None, None)
        inner.__exit__(None, None, None)
        assert torch.equal(logits(llama), plain)


# Interrupts from another thread


class Worker(threading.Thread):
    """Runs a function again and again until it is interrupted, at whatever moment of it."""

    def __init__(self, function: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self.function = function
        self.running = threading.Event()
        self.calls = 0

    def run(self) -> None:
        try:
            self.running.set()
            while True:
                self.function()
                self.calls += 1
        except Stop:
            pass

    def interrupt(self) -> None:
        """Have ``Stop`` raised in the thread, wherever it is, and wait for its end."""
        while self.is_alive():
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.ident or 0), ctypes.py_object(Stop))
            # One that was swallowed is sent again: it fell into neither of two calls that came to their end.
            sent = self.calls
            while self.is_alive() and self.calls < sent + 2:
                self.join(timeout=0.005)


@contextmanager
def eager_switching() -> Iterator[None]:
    """Threads take turns so often that an interrupt falls anywhere."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def interrupt_at_random(trace: Trace, body: Callable[[], object], times: int, seed: int) -> None:
    """Interrupt ``body`` at random moments; after each the model is as it was."""
    begin = time.perf_counter()
    body()
    usual = time.perf_counter() - begin
    generator = random.Random(seed)
    with eager_switching():
        for _ in range(times):
            worker = Worker(body)
            worker.start()
            worker.running.wait()
            time.sleep(generator.random() * usual)
            worker.interrupt()
            trace.check()


@SWALLOWED
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("what", ["attach and detach", "generate", "rows"])
def test_an_interrupt_from_another_thread(what: str, mode: Any) -> None:
    live, trace = differential_model("gemma"), trace_of("gemma")
    condition = everything(live)
    plain = logits(live)
    with live.steer(*condition, mode=mode):
        steered = logits(live, prompt_lengths=[3, 3])

    def body() -> None:
        if what == "rows":
            live.complete(PROMPTS, max_new_tokens=2, steer=[condition, None])
            return
        with live.steer(*condition, mode=mode):
            if what == "generate":
                live.complete(PROMPTS, max_new_tokens=2)

    interrupt_at_random(trace, body, 30, seed=len(what))
    assert torch.equal(logits(live), plain)
    with live.steer(*condition, mode=mode):
        assert torch.equal(logits(live, prompt_lengths=[3, 3]), steered)
    trace.check()


@SWALLOWED
@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_thousand_interrupts(mode: Any) -> None:
    live, trace = differential_model("gemma"), trace_of("gemma")
    condition = everything(live)

    def body() -> None:
        with live.steer(*condition, mode=mode):
            pass

    interrupt_at_random(trace, body, 1000, seed=1)


# Two at once


@pytest.mark.parametrize("modes", [("hook", "hook"), ("fold", "hook"), ("auto", "interpret")])
def test_two_models_are_steered_at_once(modes: tuple[Any, Any]) -> None:
    """Each thread gets what it gets alone, whatever the other one attaches, takes off or reads meanwhile."""
    models = [
        wrap(tiny_model(name, n_layers=2, seed=3), tiny_tokenizer(), self_test=False) for name in ("llama", "gemma")
    ]
    traces = [Trace(live.model) for live in models]

    def work(place: int) -> list[Any]:
        live, mode = models[place], modes[place]
        condition, found = everything(live), []
        for _ in range(4):
            with live.steer(*condition, mode=mode):
                found.append(live.complete(PROMPTS, max_new_tokens=4))
                found.append(logits(live, prompt_lengths=[3, 4]).tolist())
            found.append(live.complete(PROMPTS, max_new_tokens=4, steer=[condition, None]))
            found.append(logits(live).tolist())
        return found

    alone = [work(place) for place in range(2)]
    together: list[list[Any]] = [[], []]
    barrier = threading.Barrier(2)

    def run(place: int) -> None:
        barrier.wait()
        together[place] = work(place)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(2)]
    with eager_switching():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert together == alone
    for trace in traces:
        trace.check()
