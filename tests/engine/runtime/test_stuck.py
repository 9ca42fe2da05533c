"""A hook that waits for another thread's pass of the same model: that one ends in an error, and the outer goes on."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from steerkit.engine.runtime import stuck
from steerkit.errors import AttachError
from tests.engine.runtime.test_ownership import add, elsewhere, fresh, logits

STEER = [add(2), add(2)]


def hooked(inside: Callable[[Any], None]) -> tuple[Any, torch.Tensor]:
    """A model whose first block runs something once, within a pass in a thread of its own; that pass's logits."""
    live, calls = fresh(), []

    def hook(*_: Any) -> None:
        if not calls:
            calls.append(1)
            inside(live)

    handle = live.model.model.layers[0].register_forward_hook(hook)
    got = elsewhere(lambda: logits(live, steer=STEER))
    handle.remove()
    return live, got


def failing(live: Any, errors: list[BaseException]) -> Callable[[], None]:
    def run() -> None:
        try:
            logits(live, steer=STEER)
        except AttachError as error:
            errors.append(error)

    return run


@pytest.mark.parametrize("between", [0, 1])
def test_a_thread_that_the_holder_joins_is_told(between: int) -> None:
    """Also where the holder joins a thread that joins it."""
    errors: list[BaseException] = []

    def inside(live: Any) -> None:
        run = failing(live, errors)
        for _ in range(between):
            run = started_and_joined(run)
        started_and_joined(run)()

    live, got = hooked(inside)
    (error,) = errors
    assert "wait for ever" in str(error) and "a hook of that pass waits for this thread" in str(error)
    assert torch.equal(got, logits(live, steer=STEER)), "the pass around it is what it would have been"


def started_and_joined(function: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        thread = threading.Thread(target=function)
        thread.start()
        thread.join()

    return run


def test_a_future_of_a_pool_is_given_up_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stuck, "PATIENCE", 0.3)
    errors: list[BaseException] = []

    def inside(live: Any) -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(failing(live, errors)).result()

    live, got = hooked(inside)
    (error,) = errors
    assert "a future, a queue, an event" in str(error)
    assert torch.equal(got, logits(live, steer=STEER))


def test_a_wait_that_ends_is_waited_for() -> None:
    """The holder joins a thread for a moment, and another one entirely: who waits for the turn gets it."""
    waiting: list[threading.Thread] = []
    found: list[torch.Tensor] = []

    def inside(live: Any) -> None:
        waiting.append(threading.Thread(target=lambda: found.append(logits(live, steer=STEER))))
        waiting[0].start()
        waiting[0].join(0.3)
        slow = threading.Thread(target=threading.Event().wait, args=(0.3,))
        slow.start()
        slow.join()

    live, _ = hooked(inside)
    waiting[0].join(30)
    assert torch.equal(found[0], logits(live, steer=STEER))


def test_who_waits_keeps_no_frame_of_another_thread() -> None:
    """Frames hold tensors: what a pass that is over has held is free at once, not at the next garbage collection."""
    begun, end, held = threading.Event(), threading.Event(), []

    def run() -> None:
        tensor = torch.zeros(1)
        held.append(weakref.ref(tensor))
        begun.set()
        end.wait()

    thread = threading.Thread(target=run)
    gc.disable()
    try:
        thread.start()
        begun.wait()
        stuck.Watch().look(thread.ident or 0)
        end.set()
        thread.join()
        assert held[0]() is None
    finally:
        gc.enable()


def looked_at(
    monkeypatch: pytest.MonkeyPatch, work: Callable[[threading.Event], None], *, seconds: float = 1.5
) -> None:
    """Look for some time at a thread that runs something until it is told to end. Patience ends long before."""
    monkeypatch.setattr(stuck, "PATIENCE", 0.5)  # a busy machine may hold a thread up for a while
    end = threading.Event()
    thread = threading.Thread(target=work, args=(end,))
    thread.start()
    watch, until = stuck.Watch(), time.monotonic() + seconds
    try:
        while time.monotonic() < until:
            watch.look(thread.ident or 0)
            time.sleep(0.003)
    finally:
        end.set()
        thread.join()


def polls_an_event(end: threading.Event) -> None:
    while not end.wait(0.01):
        pass


def sleeps(end: threading.Event) -> None:
    while not end.is_set():
        time.sleep(0.01)


def joins_for_a_while(end: threading.Event) -> None:
    other = threading.Thread(target=end.wait)
    other.start()
    while other.is_alive():
        other.join(0.01)


def has_time(end: threading.Event) -> None:
    end.wait(60)


def is_woken_again_and_again(end: threading.Event) -> None:
    """Each wait has no limit, and each is another one."""
    condition = threading.Condition()

    def wake() -> None:
        while not end.wait(0.01):
            with condition:
                condition.notify()
        with condition:
            condition.notify()

    waker = threading.Thread(target=wake)
    with condition:
        waker.start()
        while not end.is_set():
            condition.wait()
    waker.join()


@pytest.mark.parametrize("work", [polls_an_event, sleeps, joins_for_a_while, has_time, is_woken_again_and_again])
def test_who_polls_is_at_work(monkeypatch: pytest.MonkeyPatch, work: Callable[[threading.Event], None]) -> None:
    looked_at(monkeypatch, work)


def stands(end: threading.Event) -> None:
    end.wait()


def joins_another(end: threading.Event) -> None:
    other = threading.Thread(target=end.wait)
    other.start()
    other.join()


@pytest.mark.parametrize("work", [stands, joins_another])
def test_who_stands_at_one_wait_is_given_up(
    monkeypatch: pytest.MonkeyPatch, work: Callable[[threading.Event], None]
) -> None:
    with pytest.raises(AttachError, match="has waited for"):
        looked_at(monkeypatch, work, seconds=30)
