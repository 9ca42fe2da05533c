"""Sums and errors of numbers that may be infinite, NaN, or too large to be squared."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.api.evaluator import Score
from steerkit.capability.scores import Difference, TaskScore, difference
from steerkit.engine.measuring.per_example import spread_of
from steerkit.engine.measuring.scores import summarise
from steerkit.intervals import standard_error, total

INF, NAN = math.inf, math.nan


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12))
def test_of_finite_numbers_they_are_the_textbook_ones(values: list[float]) -> None:
    assert total(values) == math.fsum(values)
    expected = statistics.stdev(values) / math.sqrt(len(values))
    assert standard_error(values) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(st.lists(st.floats(), max_size=6))
def test_of_any_numbers_there_is_an_answer_and_no_infinite_error(values: list[float]) -> None:
    total(values)
    assert not math.isinf(standard_error(values))


@pytest.mark.parametrize(
    ("values", "expected"),
    [([INF, 1.0], INF), ([-INF, 1.0], -INF), ([INF, -INF], NAN), ([NAN, INF], NAN), ([1e308, 1e308], INF), ([], 0.0)],
)
def test_what_a_sum_is(values: list[float], expected: float) -> None:
    assert total(values) == pytest.approx(expected, nan_ok=True)
    assert math.isnan(standard_error(values))


def test_scores_too_large_for_a_mean_have_none() -> None:
    found = summarise([Score(1e300), Score(-1e300), Score(1e300)], "mean")
    assert found.value is None and found.n == 3 and "too large for a mean" in found.note
    weighted = summarise([Score(1e308, 10.0), Score(1.0, 10.0)], "mean")
    assert weighted.value is None and weighted.n == 2 and "too large for a mean" in weighted.note


def test_effects_too_large_for_a_mean_go_no_way() -> None:
    far, back = [Score(1e308), Score(-1e308)], [Score(-1e308), Score(1e308)]
    assert spread_of(far, back) is None
    assert spread_of([Score(1e308), Score(1e308)], [Score(0.0), Score(0.0)]) is None


def test_infinite_metrics_of_tasks_have_no_error() -> None:
    def score(*values: float) -> TaskScore:
        return TaskScore("t", "perplexity", "none", values[0], None, len(values), False, "1", values)

    assert difference(score(INF, -INF, 1.0), score(1.0, 1.0, 1.0)) == Difference(INF, None)
