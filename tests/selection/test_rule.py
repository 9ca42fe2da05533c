"""The choice among scored candidates, against a literal walk over a table, and on cases worked out by hand."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.errors import SelectionError
from steerkit.selection import ARDITI_2024, Bound, Candidate, Rule, select


def candidate(position: int, layer: int, refusal: float, steering: float = 1.0, kl: float = 0.0) -> Candidate:
    scores = {"refusal_score": refusal, "steering_score": steering, "kl_div_score": kl}
    return Candidate(position, layer, scores)


# Few values, so that candidates often lie on a bound and often tie.
scored = st.tuples(
    st.sampled_from([-2.0, -1.0, -0.95, 0.0, 1.0, -math.inf, math.nan]),
    st.sampled_from([-1.0, -1e-9, 0.0, 1.0, math.inf, math.nan]),
    st.sampled_from([0.0, 0.1, 0.1000001, 0.3, -math.inf, math.inf, math.nan]),
)
tables = st.dictionaries(st.tuples(st.integers(-5, -1), st.integers(0, 9)), scored, min_size=1)


def literal(table: dict[tuple[int, int], tuple[float, float, float]], n_layers: int) -> tuple[object, dict[str, int]]:
    """The published rule, said once more as a loop over positions and layers."""
    best, removed = None, {"nan": 0, "layer": 0, "kl": 0, "induce": 0}
    for position in range(-5, 0):
        for layer in range(n_layers):
            if (position, layer) not in table:
                continue
            refusal, steering, kl = table[position, layer]
            if not (math.isfinite(refusal) and math.isfinite(steering) and math.isfinite(kl)):
                removed["nan"] += 1
            elif layer >= int(0.8 * n_layers):
                removed["layer"] += 1
            elif kl > 0.1:
                removed["kl"] += 1
            elif steering < 0:
                removed["induce"] += 1
            elif best is None or refusal < table[best][0]:
                best = (position, layer)
    return best, removed


@given(tables, st.integers(10, 14), st.randoms())
def test_the_published_rule_equals_a_literal_walk_in_any_order(
    table: dict[tuple[int, int], tuple[float, float, float]], n_layers: int, order: random.Random
) -> None:
    candidates = [candidate(*place, *scores) for place, scores in table.items()]
    order.shuffle(candidates)
    chosen = select(candidates, ARDITI_2024, n_layers)
    best, removed = literal(table, n_layers)
    assert (chosen.winner.place[:2] if chosen.winner else None) == best
    assert chosen.removed_by == removed
    assert chosen.feasible == len(table) - sum(removed.values())


def test_a_candidate_on_a_bound_is_kept_unless_the_bound_is_strict() -> None:
    on_both = candidate(-1, 3, -1.0, steering=0.0, kl=0.1)
    assert select([on_both], ARDITI_2024, 10).winner == on_both
    for index, name in enumerate(("kl", "induce")):
        bounds = list(ARDITI_2024.bounds)
        bounds[index] = replace(bounds[index], strict=True)
        chosen = select([on_both], replace(ARDITI_2024, bounds=tuple(bounds)), 10)
        assert chosen.winner is None
        assert chosen.removed_by[name] == 1


@pytest.mark.parametrize(
    ("n_layers", "outside"), [(18, 14), (24, 19), (28, 22), (32, 25), (40, 32), (60, 48), (80, 64)]
)
def test_layers_end_where_the_reference_rounds_down(n_layers: int, outside: int) -> None:
    last, next_one = candidate(-1, outside - 1, 0.0), candidate(-1, outside, -9.0)
    chosen = select([last, next_one], ARDITI_2024, n_layers)
    assert chosen.winner == last
    assert chosen.removed_by["layer"] == 1


def test_exact_ties_go_to_the_lower_position_then_the_lower_layer() -> None:
    tied = [candidate(-1, 2, -1.0), candidate(-2, 5, -1.0), candidate(-2, 4, -1.0)]
    chosen = select(tied, ARDITI_2024, 10)
    assert chosen.winner is not None
    assert chosen.winner.place == (-2, 4, "")
    assert [tie.place[:2] for tie in chosen.near_ties] == [(-2, 5), (-1, 2)]


def test_near_ties_are_feasible_and_within_their_error_or_the_given_distance() -> None:
    rows = [
        candidate(-1, 1, -2.0),
        candidate(-1, 2, -1.95),
        candidate(-1, 3, -1.8),
        candidate(-1, 4, -1.95, kl=0.5),
    ]
    assert [tie.layer for tie in select(rows, ARDITI_2024, 10).near_ties] == [2]
    assert [tie.layer for tie in select(rows, ARDITI_2024, 10, near_tie=0.3).near_ties] == [2, 3]
    assert select(rows, ARDITI_2024, 10, near_tie=0.01).near_ties == ()
    # An error of its own goes before the distance; without one the winner's does.
    wide = replace(rows[2], errors={"refusal_score": 0.25})
    narrow = replace(rows[1], errors={"refusal_score": 0.01})
    assert [tie.layer for tie in select([rows[0], narrow, wide], ARDITI_2024, 10).near_ties] == [3]
    known = replace(rows[0], errors={"refusal_score": 0.25})
    assert [tie.layer for tie in select([known, *rows[1:]], ARDITI_2024, 10, near_tie=0.0).near_ties] == [2, 3]


def test_none_feasible_says_which_constraint_removed_how_many() -> None:
    rows = [candidate(-1, 1, math.nan), candidate(-1, 2, -1.0, kl=0.5), candidate(-1, 9, -1.0), candidate(-2, 9, -1.0)]
    chosen = select(rows, ARDITI_2024, 10)
    assert (chosen.winner, chosen.feasible, chosen.near_ties) == (None, 0, ())
    said = chosen.why_none(ARDITI_2024)
    assert "None of 4 candidates" in said
    assert "1 by nan" in said
    assert "2 by layer" in said
    assert "1 by kl, which asks for kl_div_score ≤ 0.1" in said
    assert "induce" not in said


def test_an_objective_may_be_maximised() -> None:
    rule = Rule("effect", (Bound("side", "harm", at_most=1.0),), maximise=True)
    rows = [
        Candidate(-1, layer, {"effect": effect, "harm": harm})
        for layer, effect, harm in ((0, 1, 0), (1, 2, 0), (2, 3, 2))
    ]
    chosen = select(rows, rule, 3, near_tie=1.0)
    assert chosen.winner is not None
    assert chosen.winner.layer == 1
    assert [tie.layer for tie in chosen.near_ties] == [0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no candidates"),
        ([candidate(-1, 1, 0.0), candidate(-1, 1, 1.0)], "there twice"),
        ([candidate(-1, 10, 0.0)], "layers 0 to 9"),
        ([Candidate(-1, 1, {"refusal_score": 0.0})], "no kl_div_score and no steering_score"),
    ],
)
def test_what_can_not_be_chosen_from_is_refused(rows: list[Candidate], message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        select(rows, ARDITI_2024, 10)


def test_exact_ties_go_to_position_then_layer_then_the_order_of_coefficients() -> None:
    def times(position: int, layer: int, coefficient: float, order: int) -> Candidate:
        return replace(candidate(position, layer, -3.0), coefficient=coefficient, order=order)

    rows = [times(-1, 2, 2.0, 0), times(-2, 5, 0.5, 1), times(-2, 5, 2.0, 0), times(-2, 6, 2.0, 0)]
    winner = select(rows, ARDITI_2024, 10).winner
    assert winner is not None
    assert (winner.position, winner.layer, winner.coefficient) == (-2, 5, 2.0)
    with pytest.raises(SelectionError, match=r"Position -2, layer 5, coefficient 2 is there twice"):
        select([*rows, rows[2]], ARDITI_2024, 10)


def test_a_sum_is_aimed_at_with_the_error_of_both() -> None:
    def both(layer: int, one: float, other: float) -> Candidate:
        return Candidate(-1, layer, {"a": one, "b": other}, {"a": 0.3, "b": 0.4})

    rule = Rule("a", maximise=True, plus=("b",))
    chosen = select([both(1, 1.0, 0.0), both(2, 0.2, 1.3), both(3, 0.9, 0.05)], rule, 9)
    assert chosen.winner is not None
    assert chosen.winner.layer == 2
    # Within 0.5, the error of the sum: 1.0 and 0.95 lie 0.5 and 0.55 below 1.5.
    assert [one.layer for one in chosen.near_ties] == [1]
    assert rule.aim == "a + b"
    with pytest.raises(SelectionError, match="has no b"):
        select([Candidate(-1, 1, {"a": 1.0})], rule, 9)


def test_a_sum_of_infinite_scores_of_two_signs_is_no_number_and_removes_its_candidate() -> None:
    rule = Rule("a", maximise=True, plus=("b",))
    odd = Candidate(-1, 0, {"a": math.inf, "b": -math.inf})
    fine = Candidate(-1, 1, {"a": 1.0, "b": 0.0})
    found = select([odd, fine], rule, 10)
    assert found.winner == fine and found.removed_by["nan"] == 1
    for a in (math.inf, 1e308):  # also where the sum alone is beyond the range of numbers
        endless = Candidate(-1, 0, {"a": a, "b": 1e308})
        found = select([endless, fine], rule, 10)
        assert found.winner == fine and found.removed_by["nan"] == 1


def test_an_infinite_score_is_no_score_and_goes_before_everything_else() -> None:
    """Whatever side it lies on, it neither wins nor passes a bound, and is counted at the first place of the order."""
    fine = candidate(-1, 3, -1.0)
    for odd in (candidate(-1, 1, -math.inf), candidate(-1, 9, -9.0, math.inf), candidate(-1, 1, -9.0, kl=-math.inf)):
        found = select([odd, fine], ARDITI_2024, 10)
        assert found.winner == fine and found.feasible == 1
        assert found.removed_by == {"nan": 1, "layer": 0, "kl": 0, "induce": 0}
    # Also where a search removed it by a bound, and scored it no further.
    odd = replace(candidate(-1, 1, math.nan, math.nan, math.inf), removed_by="kl")
    assert select([odd, fine], ARDITI_2024, 10).removed_by["nan"] == 1
    assert "1 by nan, which asks for every score a finite number" in select([odd], ARDITI_2024, 10).why_none(
        ARDITI_2024
    )
