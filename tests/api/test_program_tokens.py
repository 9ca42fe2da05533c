"""The weights of a request's tokens are those that the engine's own masks give a batch."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from steerkit.api.program_tokens import TokenWeights, needs_turns, require_served, spans_of
from steerkit.engine.sequence.positions import Turn as Said
from steerkit.engine.sequence.positions import edit_mask, frame_of_prompts, position_intervals
from steerkit.errors import PositionError
from steerkit.types import Positions, Schedule

TURNS = (("system", 1, 3), ("user", 4, 6), ("assistant", 7, 9), ("user", 10, 13))
PROMPT, LENGTH = 15, 24
PLACES = ["", *(f"[{one}]" for one in ("0", "-1", "0,-1", ":2", "-2:", "1:-1", "1:", ":"))]
ROLES = ["all", "prompt", "generated", "completion", "instruction", "post_instruction"]
EXPLICIT = ["-1", "[-3,-1]", "[2:]", "[:-2]", "last"]
OF_TURNS = ["system", "user", "assistant", "user[0]", "user[-1]", "user[-1][:2]", "user[0][-1]", "answer_prefix"]


def engine_mask(positions: str, turns: tuple[tuple[str, int, int], ...]) -> torch.Tensor:
    said = tuple(Said(role, (start, stop)) for role, start, stop in turns)
    frame = frame_of_prompts([PROMPT], [said], width=PROMPT, padding_side="left", growing=True)
    return edit_mask(position_intervals(Positions.parse(positions), frame), 0, LENGTH)[0]


@pytest.mark.parametrize("positions", [*(role + place for role, place in product(ROLES, PLACES)), *EXPLICIT, *OF_TURNS])
@pytest.mark.parametrize("turns", [TURNS, (*TURNS, ("answer_prefix", 14, 15)), ()], ids=["turns", "prefix", "none"])
def test_they_are_the_engines(positions: str, turns: tuple[tuple[str, int, int], ...]) -> None:
    try:
        wanted = engine_mask(positions, turns)
    except PositionError:
        with pytest.raises(PositionError):
            spans_of(Positions.parse(positions), PROMPT, turns)
        return
    weights = TokenWeights([(Positions.parse(positions), Schedule())], PROMPT, turns)
    assert weights.of(0, LENGTH).tolist() == wanted.double().tolist()
    # In pieces they are the same.
    assert [float(weights.of(at, at + 1)[0]) for at in range(LENGTH)] == wanted.double().tolist()


@pytest.mark.parametrize("schedule", ["linear(1, 0, 4)", "exponential(0.5)", "[0.5, 2]"])
def test_a_schedule_counts_generated_tokens(schedule: str) -> None:
    read = Schedule.parse(schedule)
    weights = TokenWeights([(Positions("all"), read)], PROMPT)
    assert weights.of(0, LENGTH).tolist() == [read.factor(place - PROMPT) for place in range(LENGTH)]


def test_a_product_of_weights() -> None:
    one, other = (Positions.parse("[2:]"), Schedule()), (Positions("all"), Schedule.parse("[0.5, 2]"))
    both = TokenWeights([one, other], PROMPT).of(0, LENGTH)
    apart = [TokenWeights([when], PROMPT).of(0, LENGTH) for when in (one, other)]
    assert both.tolist() == (apart[0] * apart[1]).tolist()


@pytest.mark.parametrize(
    "positions", ["from_token(</think>)", "from_token(#7)", "generated[-1]", "all[-2:]", "[-3:][*]"]
)
def test_what_places_alone_cant_tell(positions: str) -> None:
    with pytest.raises(PositionError):
        require_served(Positions.parse(positions))


def test_what_needs_a_conversation() -> None:
    for positions, needed in (("user[-1]", True), ("post_instruction", True), ("prompt", False), ("-1", False)):
        assert needs_turns(Positions.parse(positions)) is needed
        require_served(Positions.parse(positions))


@pytest.mark.parametrize("schedule", ["constant", "linear(1, 0.5, 4)", "exponential(1)", "[0.5, 2, 1]"])
@pytest.mark.parametrize("positions", ["all", "prompt", "generated[:3]", "generated[2:]", "[2,-1]", "user[-1]"])
def test_from_where_on_weights_stay(positions: str, schedule: str) -> None:
    weights = TokenWeights([(Positions.parse(positions), Schedule.parse(schedule))], PROMPT, TURNS)
    assert weights.settled is not None
    since, weight = weights.settled
    assert weights.of(since, since + 50).tolist() == [weight] * 50
    assert since <= PROMPT + 4
    # No later than that either: the last token before is another's, or there is none.
    earlier = weights.of(0, since)
    assert since == 0 or earlier[-1] != weight or schedule != "constant" or positions == "user[-1]"


def test_what_never_stays() -> None:
    assert TokenWeights([(Positions("all"), Schedule.parse("exponential(0.5)"))], PROMPT).settled is None
    assert TokenWeights([(Positions("prompt"), Schedule.parse("exponential(0.5)"))], PROMPT).settled == (PROMPT, 0.0)
