"""Sites, positions and schedules in their text forms."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.errors import PositionError, ScheduleError, SiteError
from steerkit.types import ROLES, STREAMS, TURNS, Positions, Schedule, Site


@given(st.sampled_from([name for name in STREAMS if name != "embed"]), st.integers(0, 200))
def test_a_site_survives_its_text_form(stream: str, layer: int) -> None:
    site = Site(stream, layer)
    assert Site.parse(str(site)) == site
    assert str(site) == f"blocks.{layer}.{stream}"


def test_the_embedding_has_no_layer() -> None:
    assert str(Site.parse("embed")) == "embed"
    with pytest.raises(SiteError, match="no layer"):
        Site("embed", 3)
    with pytest.raises(SiteError, match="counted from 0"):
        Site("resid_pre")


@pytest.mark.parametrize("text", ["", "resid_pre", "blocks.x.resid_pre", "layer.3", "blocks.-1.resid_pre"])
def test_what_is_no_site_says_how_one_is_written(text: str) -> None:
    with pytest.raises(SiteError, match="blocks"):
        Site.parse(text)


def test_a_mistyped_stream_gets_the_nearest_one() -> None:
    with pytest.raises(SiteError, match="'resid_post'"):
        Site.parse("blocks.3.resid_pst")


@pytest.mark.parametrize(
    ("value", "role", "indices", "span", "text"),
    [
        ("all", "all", (), None, "all"),
        ("last", "prompt", (-1,), None, "prompt[-1]"),
        (-1, "", (-1,), None, "-1"),
        ("-1", "", (-1,), None, "-1"),
        ([-3, -1], "", (-3, -1), None, "[-3,-1]"),
        ("instruction[-1]", "instruction", (-1,), None, "instruction[-1]"),
        ("generated[:8]", "generated", (), (None, 8), "generated[:8]"),
        ("-5:", "", (), (-5, None), "[-5:]"),
        ("prompt[ 2 : 5 ]", "prompt", (), (2, 5), "prompt[2:5]"),
        ("completion[:8]", "completion", (), (None, 8), "completion[:8]"),
        ("system", "system", (), None, "system"),
        ("user[-1]", "user", (), None, "user[-1]"),
        ("user[-1][:8]", "user", (), (None, 8), "user[-1][:8]"),
        ("tool[0][-1]", "tool", (-1,), None, "tool[0][-1]"),
    ],
)
def test_positions_in_every_form(
    value: str | int | list[int],
    role: str,
    indices: tuple[int, ...],
    span: tuple[int | None, int | None] | None,
    text: str,
) -> None:
    positions = Positions.parse(value)
    assert (positions.role, positions.indices, positions.span) == (role, indices, span)
    assert str(positions) == text
    assert Positions.parse(text) == positions


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("from_token(</think>)", "</think>"),
        (" from_token(</think>) ", "</think>"),
        ("from_token(#151668)", 151668),
        ("from_token(a, (b) c)", "a, (b) c"),
        ("from_token(\n\n)", "\n\n"),
        ("from_token( x)", " x"),
        ("from_token(#)", "#"),
    ],
)
def test_from_token_takes_a_text_or_an_id(text: str, after: str | int) -> None:
    positions = Positions.parse(text)
    assert (positions.role, positions.after) == ("from_token", after)
    assert str(positions) == text.strip(" ")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"role": "from_token"}, "needs a text or a token id"),
        ({"role": "from_token", "after": ""}, "needs a text or a token id"),
        ({"role": "all", "after": "x"}, "needs a text or a token id"),
        ({"role": "from_token", "after": "x", "indices": (1,)}, "nothing can be chosen among them"),
        ({"role": "from_token", "after": "x", "span": (0, 3)}, "nothing can be chosen among them"),
    ],
)
def test_from_token_is_all_that_follows_one_place(arguments: dict[str, Any], part: str) -> None:
    with pytest.raises(PositionError, match=part):
        Positions(**arguments)


EDGES = st.none() | st.integers(-50, 50)
# '#7' is the form of an id, so it can't be the text.
AFTER = st.integers(0, 200_000) | st.text(min_size=1).filter(lambda text: not re.fullmatch(r"#\d+", text))
POSITIONS = st.one_of(
    st.builds(Positions, st.sampled_from(ROLES)),
    st.builds(
        Positions,
        st.sampled_from([role for role in (*ROLES, "") if role != "last" and role not in TURNS]),
        st.lists(st.integers(-50, 50), min_size=1, max_size=4).map(tuple),
    ),
    st.builds(
        lambda role, span: Positions(role, (), span),
        st.sampled_from(["all", "prompt", "generated", ""]),
        st.tuples(EDGES, EDGES),
    ),
    st.builds(lambda after: Positions("from_token", after=after), AFTER),
    st.builds(
        lambda role, turn, span: Positions(role, span=span, turn=turn),
        st.sampled_from(TURNS),
        st.integers(-5, 5),
        st.none() | st.tuples(st.none() | st.integers(-50, 50), st.none() | st.integers(-50, 50)),
    ),
)


@given(POSITIONS)
def test_positions_survive_their_text_form(positions: Positions) -> None:
    assert Positions.parse(str(positions)) == positions
    assert Positions.parse(positions) is positions


@pytest.mark.parametrize("value", ["", "al", "all[", "prompt[a]", "prompt[1:2:3]", True, [1, "x"], [], "generated[]"])
def test_what_are_no_positions_is_refused(value: object) -> None:
    with pytest.raises(PositionError):
        Positions.parse(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "kind", "values", "text"),
    [
        (None, "constant", (), "constant"),
        ("constant", "constant", (), "constant"),
        ("linear(1, 0, 64)", "linear", (1, 0, 64), "linear(1, 0, 64)"),
        (" linear( 1,-.5 , 8 ) ", "linear", (1, -0.5, 8), "linear(1, -0.5, 8)"),
        ("exponential(0.97)", "exponential", (0.97,), "exponential(0.97)"),
        ([1, 0.5], "list", (1, 0.5), "[1, 0.5]"),
        ((0.25,), "list", (0.25,), "[0.25]"),
        ("[1, 0.5]", "list", (1, 0.5), "[1, 0.5]"),
        ("exponential(0.99999999)", "exponential", (0.99999999,), "exponential(0.99999999)"),
    ],
)
def test_schedules_in_every_form(value: Any, kind: str, values: tuple[float, ...], text: str) -> None:
    schedule = Schedule.parse(value)
    assert (schedule.kind, schedule.values, str(schedule)) == (kind, values, text)
    assert Schedule.parse(schedule) is schedule
    assert schedule.is_constant == (kind == "constant")


def test_factors_of_schedules_by_hand() -> None:
    linear = Schedule.parse("linear(2, 1, 4)")
    assert [linear.factor(place) for place in (-3, 0, 1, 2, 4, 5, 99)] == [2, 2, 1.75, 1.5, 1, 1, 1]
    decay = Schedule.parse("exponential(0.5)")
    assert [decay.factor(place) for place in (-1, 0, 1, 3)] == [1, 1, 0.5, 0.125]
    listed = Schedule.parse([3, 2, 0.5])
    assert [listed.factor(place) for place in (-2, 0, 1, 2, 7)] == [3, 3, 2, 0.5, 0.5]
    assert Schedule().factor(12) == 1


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("", "is not a schedule. Write"),
        (0.5, "is not a schedule. Write"),
        ("linear(1, 0", "is not a schedule. Write"),
        ("linear(1, x, 4)", "is not a schedule. Write"),
        ("exponental(0.9)", "Did you mean 'exponential'"),
        ("linear(1, 0)", "takes 3 finite numbers"),
        ("linear(1, inf, 4)", "takes 3 finite numbers"),
        ("linear(1, 0, 0)", "a whole number of tokens"),
        ("linear(1, 0, 2.5)", "a whole number of tokens"),
        ("exponential(1.5)", "a rate between 0 and 1"),
        ("exponential(0)", "a rate between 0 and 1"),
        ("constant(2)", "takes 0 finite numbers"),
        ([], "finite numbers"),
        ("[1, x]", "is not a schedule. Write"),
        ([1, float("nan")], "finite numbers"),
        ([1, "x"], "holds numbers only"),
        ([True], "holds numbers only"),
    ],
)
def test_what_is_no_schedule_says_how_one_is_written(value: Any, part: str) -> None:
    with pytest.raises(ScheduleError, match=re.escape(part)):
        Schedule.parse(value)


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
SCHEDULES = st.one_of(
    st.just(Schedule()),
    st.builds(
        lambda start, stop, tokens: Schedule("linear", (start, stop, tokens)), NUMBERS, NUMBERS, st.integers(1, 10**6)
    ),
    st.floats(0, 1, exclude_min=True).map(lambda rate: Schedule("exponential", (rate,))),
    st.lists(NUMBERS, min_size=1, max_size=6).map(lambda values: Schedule("list", tuple(values))),
)


@given(SCHEDULES)
def test_a_schedule_survives_its_text_form(schedule: Schedule) -> None:
    assert Schedule.parse(str(schedule)) == schedule
