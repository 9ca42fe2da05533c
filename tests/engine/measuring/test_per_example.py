"""The share of examples on which an effect goes the other way, counted by hand."""

from __future__ import annotations

import math

import pytest

from steerkit.api.evaluator import Score
from steerkit.engine.measuring.per_example import Spread, spread_of


def scores(*values: float) -> list[Score]:
    return [Score(value) for value in values]


def test_examples_that_move_against_the_mean_are_counted() -> None:
    plain = scores(0.0, 1.0, 2.0, 3.0, 4.0)
    assert spread_of(scores(5.0, 3.0, 1.0, 3.0, 4.5), plain) == Spread(against=1 / 5, unmoved=1 / 5)
    # The other sign of the mean: now those that rise go the other way.
    assert spread_of(scores(-9.0, 3.0, 1.0, 3.0, 4.5), plain) == Spread(against=2 / 5, unmoved=1 / 5)


def test_verdicts_mostly_do_not_move() -> None:
    assert spread_of(scores(1, 1, 0, 0, 1, 1), scores(0, 0, 1, 0, 1, 0)) == Spread(against=1 / 6, unmoved=2 / 6)


def test_an_example_counts_once_and_the_mean_is_weighted() -> None:
    plain = [Score(0.0, 10.0), Score(0.0, 1.0), Score(0.0, 1.0), Score(5.0, 0.0)]
    moved = [Score(1.0, 10.0), Score(-2.0, 1.0), Score(-2.0, 1.0), Score(math.nan, 0.0)]
    assert spread_of(moved, plain) == Spread(against=2 / 3, unmoved=0.0)


@pytest.mark.parametrize(
    ("steered", "plain"),
    [
        (scores(1.0, -1.0), scores(0.0, 0.0)),  # the mean effect is nil
        (scores(1.0, math.nan), scores(0.0, 0.0)),
        (scores(), scores()),
        ([Score(1.0, 2.0)], [Score(0.0, 1.0)]),
        ([Score(1.0, 0.0)], [Score(0.0, 0.0)]),
        (scores(100.0002, 100.0), scores(100.0, 100.0)),  # what float32 passes round
    ],
)
def test_without_a_mean_effect_there_is_no_other_way(steered: list[Score], plain: list[Score]) -> None:
    assert spread_of(steered, plain) is None
