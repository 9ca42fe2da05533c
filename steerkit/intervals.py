"""Intervals of what was counted, and sums of numbers that may be infinite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

CONFIDENCE: Final = 0.95


def wilson(successes: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson, 1927), in [0, 1]; holds the proportion also at 0 and at 1."""
    # Most of a second to import, which what needs no proportion doesn't wait for.
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def normal_quantile(probability: float) -> float:
    """Quantile of the standard normal distribution."""
    from scipy.special import ndtri

    return float(ndtri(probability))


def t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))


def total(values: Iterable[float]) -> float:
    """The sum: NaN of infinities of two signs, and infinite beyond the range of numbers."""
    listed = list(values)
    try:
        return math.fsum(listed)
    except (ValueError, OverflowError):  # which is how fsum tells of the two
        return sum(listed)


def standard_error(values: Sequence[float]) -> float:
    """The standard error of the mean of values; NaN for fewer than two of them, and where it isn't finite."""
    n = len(values)
    if n < 2:
        return math.nan
    mean = total(values) / n
    try:
        squares = total((value - mean) ** 2 for value in values)
    except OverflowError:  # of a power, whose result a sum would take for infinite
        return math.nan
    error = math.sqrt(squares / (n - 1) / n)
    return error if math.isfinite(error) else math.nan
