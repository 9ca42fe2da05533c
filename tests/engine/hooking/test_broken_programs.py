"""Random programs into which exceptions are thrown: the model that comes out is the one that went in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.conditions import (
    MODEL_TYPES,
    MODES,
    Given,
    Known,
    conditions,
    differential_model,
    trace_of,
)
from tests.engine.hooking.test_no_trace import IDS, SWALLOWED, Stop, throwing
from tests.engine.lowering.test_differential import few, many


@dataclass
class Broken:
    """A condition for all rows and one for the first, and how far into attaching, a pass and detaching it breaks."""

    model_type: str
    mode: Any
    outer: list[Given]
    inner: list[Given] | None
    event: str
    place: float


@st.composite
def broken(draw: st.DrawFn) -> Broken:
    model_type = draw(st.sampled_from(MODEL_TYPES))
    trace_of(model_type)  # how the model was before anything touched it
    layout = differential_model(model_type).layout
    return Broken(
        model_type,
        draw(st.sampled_from(MODES)),
        draw(conditions(layout, Known(), most=4)),
        draw(st.none() | conditions(layout, Known(), most=2)),
        draw(st.sampled_from(["call", "line"])),
        draw(st.floats(0, 1, exclude_max=True)),
    )


def check_broken(case: Broken) -> None:
    live, trace = differential_model(case.model_type), trace_of(case.model_type)

    def body() -> None:
        with torch.no_grad(), live.steer(*case.outer, mode=case.mode):
            live.forward(
                IDS, prompt_lengths=[3, 4], steer=None if case.inner is None else [case.inner, None], use_cache=False
            )

    with throwing(case.event, -2) as seen:
        body()
    trace.check()
    try:
        with throwing(case.event, int(case.place * seen[0])):
            body()
    except Stop:
        pass
    trace.check()


@SWALLOWED
@few(20)
@given(broken())
def test_a_program_that_breaks_anywhere_leaves_nothing(case: Broken) -> None:
    check_broken(case)


@SWALLOWED
@pytest.mark.slow
@pytest.mark.timeout(3600)
@many(2000)
@given(broken())
def test_many_programs_that_break_anywhere(case: Broken) -> None:
    check_broken(case)
