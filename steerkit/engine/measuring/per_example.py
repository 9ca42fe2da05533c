"""What a mean effect hides: how many examples it holds for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from steerkit.api.evaluator import Score
from steerkit.intervals import total

_ROUNDING: Final = 1e-5
"""A score that moves by less than this part of its size moves by no more than float32 passes round."""


@dataclass(frozen=True)
class Spread:
    """Of one condition against the baseline, by example.

    Args:
        against: share of the examples whose effect has the other sign than the mean effect.
        unmoved: share of those without any effect.
    """

    against: float
    unmoved: float


def spread_of(scores: Sequence[Score], baseline: Sequence[Score]) -> Spread | None:
    """The share of examples on which an effect goes the other way: "anti-steerable" ones (Tan et al., 2024, arXiv
    2407.12404), with the effect on an example taken as its score under the condition minus its score without steering.

    Each example counts once, whatever its weight in the mean; those of weight 0 are left out.

    Args:
        scores: under the condition, one per example.
        baseline: of the same examples, in the same order.

    Returns:
        None where there is no mean effect whose sign could be compared: nothing is measured, a score is not finite,
        weights differ, or the mean doesn't move beyond rounding or is too large for a number.
    """
    pairs = list(zip(scores, baseline, strict=True))
    if any(one.weight != other.weight for one, other in pairs):
        return None
    counted = [(one, other) for one, other in pairs if one.weight > 0]
    if not counted or not all(math.isfinite(one.value) and math.isfinite(other.value) for one, other in counted):
        return None
    effects = [_effect(one.value, other.value) for one, other in counted]
    mean = total(one.weight * effect for (one, _), effect in zip(counted, effects, strict=True))
    if mean == 0 or not math.isfinite(mean):
        return None
    n = len(effects)
    return Spread(sum(effect * mean < 0 for effect in effects) / n, effects.count(0.0) / n)


def _effect(steered: float, plain: float) -> float:
    moved = steered - plain
    return 0.0 if abs(moved) <= _ROUNDING * max(abs(steered), abs(plain)) else moved
