"""Intervals of what was counted, and sums of numbers that may be infinite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist
from typing import Final

CONFIDENCE: Final = 0.95


def wilson(successes: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson, 1927), in [0, 1]; holds the proportion also at 0 and at 1."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At 0 and 1 one end is the proportion itself, which rounding would miss.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


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
