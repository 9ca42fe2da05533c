"""Values of a whole set: their interval, their difference, and what leaves them without a value."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from steerkit.api.evaluator import Score
from steerkit.engine.measuring.whole import not_finite, whole_difference, whole_value

VALUES = [float(place) for place in range(40)]


def mean(places: Sequence[int]) -> float:
    return math.fsum(VALUES[place] for place in places) / len(places)


def test_the_bootstrap_of_a_mean_is_that_of_the_mean() -> None:
    summary = whole_value(mean, len(VALUES))
    deviation = math.sqrt(sum((value - 19.5) ** 2 for value in VALUES) / 40 / 40)
    assert summary.value == 19.5 and summary.n == 40 and summary.note == ""
    assert summary.ci_low == pytest.approx(19.5 - 1.96 * deviation, abs=0.6)
    assert summary.ci_high == pytest.approx(19.5 + 1.96 * deviation, abs=0.6)
    assert whole_value(mean, len(VALUES)) == summary, "draws are the same ones every time"
    bare = whole_value(mean, len(VALUES), bootstrap=False)
    assert (bare.value, bare.ci_low, bare.ci_high) == (19.5, None, None)


def test_a_difference_is_of_the_same_draws() -> None:
    moved = whole_difference(lambda places: mean(places) + 2, mean, len(VALUES))
    assert (moved.value, moved.ci_low, moved.ci_high) == pytest.approx((2.0, 2.0, 2.0))


def test_no_value_is_said_and_never_zero() -> None:
    assert whole_value(lambda places: math.nan, len(VALUES)).value is None
    assert "can't be computed" in whole_value(lambda places: math.nan, len(VALUES)).note
    said = whole_value(lambda places: math.nan, len(VALUES), why="no example is labelled 3").note
    assert said == "No value: no example is labelled 3."
    missing = whole_value(mean, len(VALUES), missing=3)
    assert (missing.value, missing.not_computed, missing.n) == (None, 3, 37)
    assert "3 of 40" in missing.note
    assert whole_value(mean, 0).value is None


def test_an_interval_of_other_data_is_none() -> None:
    """Where many draws have no value, those that have one are of other data."""

    def rare(places: Sequence[int]) -> float:
        return mean(places) if 0 in places else math.nan

    summary = whole_value(rare, len(VALUES))
    assert summary.value == 19.5 and summary.ci_low is None and "draws" in summary.note


def test_only_scores_that_count_are_missing() -> None:
    nan = Score(math.nan)
    scores = [{"a": Score(1.0), "b": nan}, {"a": Score(1.0), "b": Score(2.0)}, {"a": Score(math.nan, 0.0)}]
    assert not_finite(scores) == 1


def test_an_example_that_lacks_scores_under_two_conditions_is_missing_once() -> None:
    good, bad = {"a": Score(1.0)}, {"a": Score(math.nan)}
    assert not_finite([bad, good, bad, good], [bad, bad, good, good]) == 3
    assert not_finite([], []) == 0
