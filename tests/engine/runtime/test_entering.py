"""What acts in a ``with`` alone says so where that is left out; and messages name the ``generate`` that is meant."""

from __future__ import annotations

import gc
import warnings
from contextlib import ExitStack
from typing import Any

import pytest
import torch

from steerkit.errors import PositionError, UnknownNameError
from steerkit.session.model import LiveModel
from tests.engine.conditions import differential_model
from tests.engine.runtime.test_ownership import IDS, add, logits

CALLS: dict[str, Any] = {
    "steer": lambda live: live.steer(add(1)),
    "steer_rows": lambda live: live.steer_rows([add(1), None]),
    "prepare": lambda live: live.prepare(),
}


@pytest.fixture
def live() -> LiveModel:
    return differential_model("llama")


@pytest.mark.parametrize("name", CALLS)
def test_without_with_a_warning_says_that_nothing_happens(live: LiveModel, name: str) -> None:
    plain = logits(live)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        CALLS[name](live)
        gc.collect()
    (one,) = caught
    assert str(one.message).startswith(f"model.{name}(...) alone does nothing: write `with model.{name}(...):`")
    assert one.filename == __file__, "it points at the line that was written"
    assert torch.equal(logits(live), plain)
    kept = CALLS[name](live)
    assert "alone does nothing" in repr(kept), "as a notebook shows it"
    with kept:
        pass
    assert "alone" not in repr(kept)


@pytest.mark.parametrize("name", CALLS)
def test_whoever_enters_is_told_nothing(live: LiveModel, name: str) -> None:
    plain = logits(live)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with CALLS[name](live) as given:
            assert given is live
        with ExitStack() as stack:
            stack.enter_context(CALLS[name](live))
        with pytest.raises(UnknownNameError):
            getattr(live, name)(nothing=1)
        gc.collect()
    assert torch.equal(logits(live), plain)


def test_it_may_stand_before_a_function(live: LiveModel) -> None:
    with live.steer(add(1)):
        expected = logits(live)

    @live.steer(add(1))
    def steered() -> Any:
        return logits(live)

    assert torch.equal(steered(), expected) and torch.equal(steered(), expected)
    assert not torch.equal(logits(live), expected)


@pytest.mark.parametrize("positions", ["generated", "prompt", "last", -1, "instruction"])
def test_under_another_generate_the_message_names_the_one_that_knows(live: LiveModel, positions: Any) -> None:
    named = r"model\.generate instead of hf_model\.generate .* streamer, sampling and everything else"
    with live.steer(add(1, positions)), pytest.raises(PositionError, match=named):
        live.hf_model.generate(IDS, max_new_tokens=2, do_sample=False)
    scheduled = add(1)
    object.__setattr__(scheduled, "schedule", type(scheduled.schedule).parse("exponential(0.5)"))
    with live.steer(scheduled), pytest.raises(PositionError, match=named):
        live.hf_model.generate(IDS, max_new_tokens=2, do_sample=False)


def test_that_generate_takes_what_the_message_says(live: LiveModel) -> None:
    heard: list[int] = []

    class Streamer:
        def put(self, value: Any) -> None:
            heard.append(int(value.numel()))

        def end(self) -> None:
            heard.append(0)

    with live.steer(add(1, "generated")):
        live.generate("ab", streamer=Streamer(), do_sample=True, temperature=0.7, top_k=5, max_new_tokens=2)
    assert heard[-1] == 0 and len(heard) > 2
