"""Ownership from outside: many threads ask one model for everything at once, in every family, while requests fail and
are interrupted at random moments. Each request that ends gets what it gets alone, and nothing is left on the model."""

from __future__ import annotations

import contextvars
import ctypes
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from steerkit.api.intervention import Affine, Pointwise
from steerkit.engine.tiny.models import YI_VOCAB_SIZE, tiny_model, tiny_tokenizer
from steerkit.session import wrap
from steerkit.session.model import LiveModel
from steerkit.sources import TINY_MODEL_TYPES
from tests.engine.conditions import Given, Trace, vectors
from tests.engine.hooking.test_no_trace import SWALLOWED, Stop, eager_switching

N_THREADS, N_REQUESTS = 8, 2000
IDS = torch.tensor([[2, 70, 71, 72, 73, 74], [2, 75, 74, 73, 72, 71]])
PROMPTS = ["ab", "cabbage"]
MODES = ("auto", "fold", "hook", "interpret")


class Bomb:
    """Throws when it has been called so often: as a logits processor, as a function of the stream, as a streamer."""

    def __init__(self, left: int) -> None:
        self.left = left

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Stop

    def __call__(self, given: Tensor, scores: Tensor | None = None) -> Tensor:
        self._count()
        return given if scores is None else scores

    def put(self, value: Tensor) -> None:
        self._count()

    def end(self) -> None:
        pass


class Heard:
    """A streamer that keeps what it is given."""

    def __init__(self) -> None:
        self.tokens: list[list[int]] = []

    def put(self, value: Tensor) -> None:
        self.tokens.append(value.flatten().tolist())

    def end(self) -> None:
        self.tokens.append([])


class Asker:
    """Requests of one model, each with its condition, its form and its expected result.

    Args:
        model_type: of the model.
    """

    def __init__(self, model_type: str) -> None:
        self.tokenizer = tiny_tokenizer(YI_VOCAB_SIZE) if model_type == "yi" else tiny_tokenizer()
        self.live: LiveModel = wrap(tiny_model(model_type, n_layers=2, seed=5), self.tokenizer, self_test=False)
        self.trace = Trace(self.live.model)
        self.kinds: dict[str, Callable[[], Any]] = {
            "forward": lambda: self.logits(steer=[self.add(1), self.add(2)]),
            "positions": lambda: self.logits(prompt_lengths=[3, 4], steer=[self.add(3, "generated"), None]),
            "plain": lambda: self.logits(steer=[None, None]),
            "generate": lambda: self.generate(steer=[self.add(3, "generated"), self.ablate()]),
            "monitored": self.capture,
            "streamed": self.streamed,
            "streamed here": self.streamed_here,
            "events": self.events,
            "some events": self.some_events,
            **{f"block, {mode}": lambda mode=mode: self.block(mode) for mode in MODES},  # type: ignore[misc]
        }
        self.alone = {name: ask() for name, ask in self.kinds.items()}
        begin = time.perf_counter()
        self.block("fold")
        self.usual = time.perf_counter() - begin

    # What requests are made of

    def add(self, seed: int, positions: str = "all") -> Given:
        width = self.live.layout.d_model
        return Given({"blocks.1.resid_pre": Affine(bias=3 * vectors(width, 1, seed)[0])}, positions)

    def ablate(self) -> Given:
        v = torch.nn.functional.normalize(vectors(self.live.layout.d_model, 1, 7), dim=1)
        return Given({str(site): Affine(-v, v) for site in self.live.layout.writer_sites()})

    @torch.no_grad()
    def logits(self, **more: Any) -> Any:
        return self.live.forward(IDS, use_cache=False, **more).logits.tolist()

    def generate(self, **more: Any) -> list[str]:
        return self.live.generate(PROMPTS, max_new_tokens=3, **more)

    # Requests that are answered

    def block(self, mode: Any) -> Any:
        with self.live.steer(self.ablate(), self.add(1), mode=mode), self.live.steer(self.add(2, "[1,2]"), mode=mode):
            return [self.logits(prompt_lengths=[3, 3]), self.generate()]

    def capture(self) -> Any:
        found = self.live.capture(PROMPTS, "blocks.1.resid_pre", "all", steer=[self.add(1), None], progress=False)
        return [statistics.mean.tolist() for statistics in found.values()]

    def streamed(self) -> str:
        """Written by a thread that carries the context, and read here meanwhile."""
        from transformers import TextIteratorStreamer

        with self.live.steer(self.add(1), mode="fold"):
            streamer: Any = TextIteratorStreamer(self.tokenizer, skip_prompt=True, timeout=200)
            writer = threading.Thread(
                target=contextvars.copy_context().run,
                args=(self.live.generate, PROMPTS[:1]),
                kwargs={"max_new_tokens": 3, "streamer": streamer},
            )
            writer.start()
            text = "".join(streamer)
            writer.join()
        return text

    def streamed_here(self) -> list[list[int]]:
        """Written and read by one thread."""
        heard = Heard()
        with self.live.steer(self.add(2), mode="hook"):
            self.live.generate(PROMPTS[:1], max_new_tokens=3, streamer=heard)
        return heard.tokens

    def events(self) -> list[tuple[Any, ...]]:
        """Written by a thread of steerkit's own, and read here meanwhile."""
        with self.live.steer(self.add(1), mode="fold"):
            stream = self.live.generate(PROMPTS, max_new_tokens=3, stream=True)
            return sorted((one.prompt, one.text, one.token_id, str(one.finish_reason)) for one in stream)

    def some_events(self) -> str:
        """A stream that is left in the middle."""
        with (
            self.live.steer(self.add(2), mode="hook"),
            self.live.generate(PROMPTS[:1], max_new_tokens=9, stream=True) as stream,
        ):
            next(stream)
            return next(stream).text

    # Requests that come to nothing

    def fails(self, dice: random.Random) -> None:
        """An exception at a random call: of a function of the stream, while writing, while streaming, for events, while
        they are read, in a body."""
        bomb, how = Bomb(dice.randrange(4)), dice.randrange(6)
        mode: Any = dice.choice(MODES)
        given: dict[str, Any] = {"max_new_tokens": 8, "steer": None}
        try:
            with self.live.steer(self.ablate(), self.add(1), mode=mode):
                if how == 0:
                    self.generate(
                        steer=[Given({"blocks.1.mlp_out": Pointwise(bomb)}), None], logits_processor=[Bomb(2)]
                    )
                elif how == 1:
                    self.live.generate(PROMPTS, logits_processor=[bomb], **given)
                elif how == 2:
                    self.live.generate(PROMPTS[:1], streamer=bomb, **given)
                elif how == 3:
                    list(self.live.generate(PROMPTS, stream=True, logits_processor=[bomb], **given))
                elif how == 4:
                    for _ in self.live.generate(PROMPTS, stream=True, **given):
                        bomb._count()
                raise Stop
        except Stop:
            pass

    def interrupted(self, dice: random.Random) -> None:
        """An interrupt at a random moment of a random request, thrown in from outside."""
        # Of what is thrown at a thread that just begins another one Python may let the other one have it.
        ask = self.kinds[dice.choice(sorted(self.kinds.keys() - {"streamed", "events", "some events"}))]

        def work() -> None:
            try:
                running.set()
                while True:
                    ask()
            except Stop:
                pass
            # It stays until nothing more is thrown: another thread would get its number, and what is meant for it.
            while not over.is_set():
                try:
                    caught.set()
                    over.wait(0.01)
                except Stop:
                    pass

        running, caught, over = threading.Event(), threading.Event(), threading.Event()
        thread = threading.Thread(target=work)
        thread.start()
        running.wait()
        time.sleep(dice.random() * self.usual * N_THREADS)
        while not caught.is_set():
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Stop))
            # One that was swallowed is sent again.
            caught.wait(5)
        over.set()
        thread.join()


def soak(model_type: str, n_requests: int) -> Counter[str]:
    """Ask for everything at once. Returns how many of each kind there were."""
    asker, dice = Asker(model_type), random.Random(model_type)
    # One in six fails, and one in six is interrupted.
    names = [dice.choice([*asker.kinds, *asker.kinds, *["fails", "interrupted"] * 5]) for _ in range(n_requests)]
    wrong: list[str] = []
    barrier = threading.Barrier(N_THREADS)

    def work(place: int) -> None:
        own = random.Random(place)
        barrier.wait()
        for name in names[place::N_THREADS]:
            try:
                if name in asker.kinds:
                    if asker.kinds[name]() != asker.alone[name]:
                        wrong.append(name)
                else:
                    getattr(asker, name)(own)
            except BaseException as error:
                wrong.append(f"{name}: {error!r}")

    threads = [threading.Thread(target=work, args=(place,)) for place in range(N_THREADS)]
    with eager_switching():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong, wrong[:3]
    asker.trace.check()
    shared = asker.live.steering.shared
    assert not shared.blocks and not shared.states and not shared.served and shared.turns.holder is None
    assert {name: ask() for name, ask in asker.kinds.items()} == asker.alone
    return Counter(names)


@SWALLOWED
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_short_soak_with_failures_and_interrupts() -> None:
    seen = soak("gemma", 48)
    assert seen["fails"] and seen["interrupted"] and seen["streamed"] and seen["events"] and seen["some events"]


@SWALLOWED
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.slow
@pytest.mark.parametrize("model_type", TINY_MODEL_TYPES)
def test_two_thousand_requests_over_all_families(model_type: str) -> None:
    soak(model_type, -(-N_REQUESTS // len(TINY_MODEL_TYPES)))
