from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import settings as checked
from hypothesis import strategies as st
from scipy import stats

from steerkit.api.evaluator import Score
from steerkit.engine.measuring.scores import Summary, derived, paired_difference, summarise
from steerkit.errors import PluginError
from steerkit.intervals import wilson


def scores(*values: float) -> list[Score]:
    return [Score(float(value)) for value in values]


def proportion(successes: int, n: int) -> Summary:
    return summarise(scores(*[1] * successes, *[0] * (n - successes)), "proportion")


# Newcombe, Statistics in Medicine 17 (1998), table I, method 3 (the score method without continuity correction).
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_against_published_values(successes: int, n: int, low: float, high: float) -> None:
    summary = proportion(successes, n)
    assert summary.ci_low == pytest.approx(low, abs=5e-5)
    assert summary.ci_high == pytest.approx(high, abs=5e-5)
    assert summary.value == successes / n and summary.n == n


@checked(max_examples=50, deadline=None)
@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_by_its_definition(case: tuple[int, int]) -> None:
    successes, n = case
    z, p = statistics.NormalDist().inv_cdf(0.975), successes / n
    centre, width = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    ends = [max(0.0, centre - width) / (1 + z * z / n), min(1 + z * z / n, centre + width) / (1 + z * z / n)]
    low, high = wilson(successes, n)
    assert (low, high) == pytest.approx(ends, abs=1e-12)
    assert 0 <= low <= successes / n <= high <= 1


def test_wilson_at_both_ends_is_exact() -> None:
    for n in range(1, 300):
        assert wilson(0, n)[0] == 0.0 and wilson(n, n)[1] == 1.0


def test_standard_error_of_a_proportion_is_the_papers() -> None:
    assert proportion(20, 100).standard_error == pytest.approx(0.04)
    assert proportion(0, 100).standard_error == 0.0


@checked(max_examples=50, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30))
def test_mean_against_scipy(values: list[float]) -> None:
    summary = summarise(scores(*values), "mean")
    assert summary.value == pytest.approx(statistics.fmean(values), abs=1e-9)
    error = statistics.stdev(values) / math.sqrt(len(values))
    assert summary.standard_error == pytest.approx(error, rel=1e-9, abs=1e-12)
    if error > 1e-9:
        low, high = stats.t.interval(0.95, len(values) - 1, loc=statistics.fmean(values), scale=error)
        assert (summary.ci_low, summary.ci_high) == pytest.approx((low, high), rel=1e-9, abs=1e-9)


def test_mean_of_two_by_hand() -> None:
    # Mean 1, s = √2, SE = 1, and the t quantile with one degree of freedom is 12.706.
    summary = summarise(scores(0, 2), "mean")
    assert (summary.value, summary.standard_error) == (1.0, 1.0)
    assert summary.ci_low == pytest.approx(1 - 12.7062, abs=1e-4)
    assert summary.ci_high == pytest.approx(1 + 12.7062, abs=1e-4)


def test_weighted_mean_by_hand() -> None:
    # Σwv / Σw = (3·1 + 1·5) / 4 = 2; residuals w(v − 2) are −3 and 3; SE = √(18 · 2/1) / 4 = 1.5.
    summary = summarise([Score(1.0, 3.0), Score(5.0, 1.0)], "mean")
    assert (summary.value, summary.standard_error) == (2.0, 1.5)


@checked(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(-10, 10), st.floats(0.5, 4)), min_size=2, max_size=12), st.floats(0.01, 100))
def test_only_the_ratio_of_weights_matters(pairs: list[tuple[float, float]], factor: float) -> None:
    one = summarise([Score(value, weight) for value, weight in pairs], "mean")
    other = summarise([Score(value, factor * weight) for value, weight in pairs], "mean")
    assert one.value == pytest.approx(other.value, rel=1e-9, abs=1e-12)
    assert one.standard_error == pytest.approx(other.standard_error, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("aggregate", ["mean", "proportion"])
def test_one_bad_score_leaves_no_value_and_no_zero(bad: float, aggregate: str) -> None:
    summary = summarise([*scores(1, 1, 0), Score(bad)], aggregate)  # type: ignore[arg-type]
    assert summary == Summary(None, 3, note="1 of 4 scores is NaN or infinite, so there is no value.", not_computed=1)


@pytest.mark.parametrize("aggregate", ["mean", "proportion"])
def test_of_nothing_there_is_no_value(aggregate: str) -> None:
    summary = summarise([], aggregate)  # type: ignore[arg-type]
    assert summary.value is None and summary.n == 0 and "no examples" in summary.note


def test_a_score_of_no_weight_is_left_out() -> None:
    assert summarise([Score(math.nan, 0.0), *scores(2, 4)], "mean").value == 3.0
    summary = summarise([Score(math.nan, 0.0)], "mean")
    assert summary.value is None and summary.n == 0 and "anything to measure" in summary.note


def test_of_one_example_the_error_is_unknown() -> None:
    assert summarise(scores(2.5), "mean") == Summary(2.5, 1)
    one = proportion(1, 1)
    assert one.standard_error is None
    assert one.ci_low == pytest.approx(0.2065, abs=5e-5) and one.ci_high == 1.0


@pytest.mark.parametrize(
    ("given_scores", "aggregate", "said"),
    [
        ([Score(0.5)], "proportion", "score of 0.5 in a proportion"),
        ([Score(1.0, 1.0), Score(0.0, 2.0)], "proportion", "Unequal weights"),
        ([Score(1.0, -1.0)], "mean", "weight -1.0"),
        ([Score(1.0, math.nan)], "mean", "weight nan"),
    ],
)
def test_scores_that_break_the_contract_are_refused(given_scores: list[Score], aggregate: str, said: str) -> None:
    with pytest.raises(PluginError, match=said):
        summarise(given_scores, aggregate)  # type: ignore[arg-type]


def test_derived_values_take_the_interval_along() -> None:
    summary = summarise(scores(1, 2, 3), "mean")
    found = derived(summary, math.exp)
    assert summary.value is not None and summary.ci_low is not None and summary.ci_high is not None
    assert (found.value, found.ci_low, found.ci_high) == (
        math.exp(summary.value),
        math.exp(summary.ci_low),
        math.exp(summary.ci_high),
    )
    assert found.standard_error is None and found.n == 3


def test_a_falling_function_turns_the_interval_around() -> None:
    found = derived(Summary(1.0, 4, 0.1, 0.5, 2.0), lambda value: -value)
    assert (found.ci_low, found.value, found.ci_high) == (-2.0, -1.0, -0.5)


def test_what_has_no_value_has_no_derived_value() -> None:
    assert derived(Summary(None, 2, note="why"), math.exp) == Summary(None, 2, note="why")


def test_a_derived_value_that_overflows_is_not_infinite() -> None:
    found = derived(Summary(1e4, 3, 1.0, 1e4, 2e4), math.exp)
    assert found.value is None and "too large" in found.note
    half = derived(Summary(2.0, 3, 1.0, 1.0, 1e4), math.exp)
    assert half.value == math.exp(2.0) and half.ci_high is None


def test_a_paired_difference_is_the_t_interval_of_the_differences() -> None:
    plain, steered = [1.0, 5.0, 9.0, 13.0], [1.5, 5.7, 9.4, 13.6]
    found = paired_difference([Score(v) for v in steered], [Score(v) for v in plain], "mean")
    expected = summarise([Score(b - a) for a, b in zip(plain, steered, strict=True)], "mean")
    assert found == expected
    assert found.ci_low is not None and found.ci_low > 0, "far tighter than the spread of the examples"


def test_a_paired_proportion_is_agresti_and_mins() -> None:
    """n=10, 6 examples go up and 1 goes down: centre 5/12, error sqrt(8 - 25/12)/12."""
    plain = [Score(float(v)) for v in [0, 0, 0, 0, 0, 0, 1, 1, 1, 0]]
    steered = [Score(float(v)) for v in [1, 1, 1, 1, 1, 1, 0, 1, 1, 0]]
    found = paired_difference(steered, plain, "proportion")
    error = math.sqrt(8 - 25 / 12) / 12
    assert found.value == pytest.approx(0.5)
    assert found.standard_error == pytest.approx(error)
    assert found.ci_low == pytest.approx(5 / 12 - 1.959964 * error, abs=1e-6)
    assert found.ci_high == pytest.approx(5 / 12 + 1.959964 * error, abs=1e-6)


def test_a_proportion_that_never_moves_still_has_an_interval() -> None:
    same = [Score(1.0)] * 20
    found = paired_difference(same, same, "proportion")
    assert found.value == 0.0 and found.ci_low is not None and found.ci_high is not None
    assert -0.2 < found.ci_low < 0 < found.ci_high < 0.2


def test_nothing_is_paired_across_other_weights_or_nan() -> None:
    assert paired_difference([Score(1.0, 2.0)], [Score(1.0, 3.0)], "mean").value is None
    assert paired_difference([Score(math.nan)] * 2, [Score(1.0)] * 2, "proportion").value is None
