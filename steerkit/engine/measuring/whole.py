"""Values of a whole data set, such as an AUROC, with an interval from examples that are drawn anew."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np

from steerkit.api.evaluator import Score
from steerkit.engine.measuring.scores import Summary
from steerkit.errors import agreeing, counted
from steerkit.intervals import CONFIDENCE

DRAWS: Final = 1000
_SEED: Final = 20240726
_LOST: Final = 0.05
"""The share of draws that may have no value; with more of them the interval would be one of other data."""

Compute: TypeAlias = Callable[[Sequence[int]], float]
"""From places of examples, some perhaps several times, to the value; NaN where there is none."""


def not_finite(*conditions: Sequence[Mapping[str, Score]]) -> int:
    """How many examples have a score that counts and is NaN or infinite, under one condition or another.

    Args:
        conditions: the scores under each condition, of the same examples in the same order.
    """
    return sum(any(map(_lacks, example)) for example in zip(*conditions, strict=True))


def _lacks(scores: Mapping[str, Score]) -> bool:
    return any(one.weight > 0 and not math.isfinite(one.value) for one in scores.values())


def whole_value(compute: Compute, n: int, *, bootstrap: bool = True, missing: int = 0, why: str = "") -> Summary:
    """A value of all examples, with the percentile interval of the bootstrap (Efron, 1979).

    Each example is drawn by itself: the two sides of a pair are data of their own, and never in one set.

    Args:
        compute: gives the value.
        n: how many examples there are.
        bootstrap: whether to draw at all.
        missing: how many examples have no finite score, each once. One of them leaves the whole without a value.
        why: what the examples lack, for the note on a value that there isn't.
    """
    if missing:
        note = (
            f"{missing} of {counted(n, 'example')} {agreeing(missing, 'has', 'have')} scores that are NaN or "
            f"infinite, so there is no value."
        )
        return Summary(None, n - missing, note=note, not_computed=missing)
    value = compute(range(n)) if n else math.nan
    if not math.isfinite(value):
        why = (why or "it can't be computed from these examples") if n else "there are no examples"
        return Summary(None, n, note=f"No value: {why}.")
    if not bootstrap:
        return Summary(value, n)
    low, high, note = _bootstrap_interval(compute, n)
    return Summary(value, n, None, low, high, note)


def whole_difference(
    compute: Compute, baseline: Compute, n: int, *, bootstrap: bool = True, missing: int = 0, why: str = ""
) -> Summary:
    """How far a condition moves a value of all examples; both are computed from the same draws."""

    def moved(places: Sequence[int]) -> float:
        return compute(places) - baseline(places)

    return whole_value(moved, n, bootstrap=bootstrap, missing=missing, why=why)


def _bootstrap_interval(compute: Compute, n: int) -> tuple[float | None, float | None, str]:
    if n < 2:
        return None, None, ""
    draw = random.Random(_SEED)
    values = [compute(draw.choices(range(n), k=n)) for _ in range(DRAWS)]
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < (1 - _LOST) * DRAWS:
        return (
            None,
            None,
            f"No interval: {DRAWS - len(finite)} of {DRAWS} draws of examples "
            f"{agreeing(DRAWS - len(finite), 'has', 'have')} no value.",
        )
    low, high = np.quantile(finite, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high), ""
