"""From the scores of single examples to a value with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from steerkit.api.evaluator import Score
from steerkit.errors import PluginError, agreeing, counted
from steerkit.intervals import CONFIDENCE, normal_quantile, t_quantile, wilson


@dataclass(frozen=True)
class Summary:
    """A data set's value. None stands for what was not measured or can't be known; it is never 0.

    Args:
        value: the mean, weighted by the scores' weights, or the proportion.
        n: how many examples it is of.
        standard_error: of the value; None for fewer than two examples.
        ci_low: lower end of the 95 % interval, or None.
        ci_high: upper end of the 95 % interval, or None.
        note: what a reader must know, such as why there is no value; empty otherwise.
        not_computed: how many examples have a score that is NaN or infinite.
    """

    value: float | None
    n: int
    standard_error: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    note: str = ""
    not_computed: int = 0


def summarise(scores: Sequence[Score], aggregate: Literal["mean", "proportion"]) -> Summary:
    """Summarise one evaluator's scores under one condition on one data set.

    Scores of weight 0 are left out: there was nothing to measure. One NaN or infinite score leaves the
    whole without a value, because a mean of the others would be of other examples than the baseline's;
    ``n`` is then the number of finite ones.

    Args:
        scores: one per example.
        aggregate: ``mean``: Student's t interval around the weighted mean; ``proportion``: Wilson's interval.

    Raises:
        PluginError: for a weight that is negative or not finite, and for a proportion of values other than 0
            and 1 or with unequal weights.
    """
    _check_weights(scores)
    weighed = [score for score in scores if score.weight > 0]
    finite = sum(math.isfinite(score.value) for score in weighed)
    if finite < len(weighed):
        n = len(weighed) - finite
        note = f"{n} of {counted(len(weighed), 'score')} {agreeing(n)} NaN or infinite, so there is no value."
        return Summary(None, finite, note=note, not_computed=len(weighed) - finite)
    if not weighed:
        why = "none of the examples has anything to measure" if scores else "there are no examples"
        return Summary(None, 0, note=f"No value: {why}.")
    left_out = len(scores) - len(weighed)
    has, told = agreeing(left_out, "has", "have"), counted(len(scores), "example")
    note = f"{left_out} of {told} {has} nothing to measure and {agreeing(left_out)} left out." if left_out else ""
    if aggregate == "proportion":
        return _proportion_of_scores(weighed, note)
    try:
        found = _mean(weighed, note)
    except OverflowError:
        found = None
    if found is None or not all(math.isfinite(one or 0) for one in (found.value, found.ci_low, found.ci_high)):
        return Summary(None, len(weighed), note="The scores are too large for a mean, so there is no value.")
    return found


def derived(summary: Summary, function: Callable[[float], float]) -> Summary:
    """The summary of a monotone function of the value, such as perplexity of cross-entropy.

    The interval's ends go through the function. There is no standard error: around a curved function's
    value the error isn't symmetric.
    """

    def through(value: float | None) -> float | None:
        if value is None:
            return None
        try:
            result = function(value)
        except (OverflowError, ValueError):
            return None
        return result if math.isfinite(result) else None

    value, low, high = through(summary.value), through(summary.ci_low), through(summary.ci_high)
    if low is not None and high is not None and low > high:
        low, high = high, low
    note = summary.note
    if summary.value is not None and value is None:
        note = " ".join(part for part in (note, "The value is too large for a number.") if part)
    return Summary(value, summary.n, None, low, high, note, summary.not_computed)


def paired_difference(
    scores: Sequence[Score], baseline: Sequence[Score], aggregate: Literal["mean", "proportion"]
) -> Summary:
    """How far a condition moves the same examples: condition minus baseline, example by example.

    Tighter than a comparison of two intervals, because what examples differ in falls out. Means get
    Student's t interval of the differences; proportions that of Agresti and Min (2005), with half an
    example added to each cell of the 2 x 2 table.

    Args:
        scores: under the condition, one per example.
        baseline: of the same examples, in the same order.
        aggregate: as in ``summarise``.
    """
    pairs = list(zip(scores, baseline, strict=True))
    if any(steered.weight != plain.weight for steered, plain in pairs):
        return Summary(None, 0, note="Other examples count than under the baseline, so they can't be paired.")
    moved = [Score(steered.value - plain.value, steered.weight) for steered, plain in pairs]
    if aggregate == "mean" or any(not math.isfinite(score.value) for score in moved):
        return summarise(moved, "mean")
    counted = [score.value for score in moved if score.weight > 0]
    if not counted:
        return summarise(moved, "mean")
    return _paired_proportion(counted.count(1.0), counted.count(-1.0), len(counted))


def _paired_proportion(up: int, down: int, n: int) -> Summary:
    more, less, of = up + 0.5, down + 0.5, n + 2
    centre = (more - less) / of
    error = math.sqrt(more + less - (more - less) ** 2 / of) / of
    half = normal_quantile(0.5 + CONFIDENCE / 2) * error
    value = (up - down) / n
    return Summary(
        value, n, error if n > 1 else None, max(-1.0, min(centre - half, value)), min(1.0, max(centre + half, value))
    )


def _check_weights(scores: Sequence[Score]) -> None:
    bad = [score.weight for score in scores if not (math.isfinite(score.weight) and score.weight >= 0)]
    if bad:
        raise PluginError(f"A score has weight {bad[0]}: an evaluator's weights are finite and not negative.")


def _proportion_of_scores(scores: Sequence[Score], note: str) -> Summary:
    odd = [score.value for score in scores if score.value not in (0.0, 1.0)]
    if odd:
        raise PluginError(f"A score of {odd[0]} in a proportion: its evaluator may only give 0 and 1.")
    if len({score.weight for score in scores}) > 1:
        raise PluginError("Unequal weights in a proportion: its evaluator may only give one weight to all scores.")
    n, successes = len(scores), sum(score.value == 1.0 for score in scores)
    p = successes / n
    low, high = wilson(successes, n)
    return Summary(p, n, math.sqrt(p * (1 - p) / n) if n > 1 else None, low, high, note)


def _mean(scores: Sequence[Score], note: str) -> Summary:
    """The ratio estimator ``Σwv / Σw`` and its linearised standard error; with equal weights ``s / √n``."""
    n = len(scores)
    total = math.fsum(score.weight for score in scores)
    value = math.fsum(score.weight * score.value for score in scores) / total
    if n < 2:
        return Summary(value, n, note=note)
    squares = math.fsum((score.weight * (score.value - value)) ** 2 for score in scores)
    error = math.sqrt(squares * n / (n - 1)) / total
    half = t_quantile(0.5 + CONFIDENCE / 2, n - 1) * error
    return Summary(value, n, error, value - half, value + half, note)
