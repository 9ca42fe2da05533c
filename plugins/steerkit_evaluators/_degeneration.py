"""Repetition in completions: by compression, and by distinct n-grams (Li et al., 2016, arXiv 1510.03055)."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Final

from steerkit.api.evaluator import Evaluator, Outputs, Score
from steerkit_evaluators._outputs import required
from steerkit_evaluators.degeneration import DegenerationOptions

LEAST_BYTES: Final = 20
"""The compressed form's own header is 6 to 8 bytes, so of a shorter text the ratio tells nothing."""

NOTHING: Final = Score(math.nan, 0.0)
"""Too short to be measured, which isn't 0: it is left out of the mean."""


class Degeneration(Evaluator[DegenerationOptions]):
    """Each measure of each completion. A completion that is too short for one is left out of that mean; ``degenerate``
    is of all completions, and one that is too short to be called so isn't."""

    def score(self, outputs: Outputs) -> Sequence[Mapping[str, Score]]:
        """Four scores per prompt; needs ``completions``."""
        return [self._score(text) for text in required(outputs.completions, "degeneration", "completions")]

    def _score(self, text: str) -> dict[str, Score]:
        size, ratio = len(_bytes(text)), compression(text)
        degenerate = size >= max(self.options.from_bytes, LEAST_BYTES) and ratio < self.options.below
        return {
            "degenerate": Score(float(degenerate)),
            "compression": _or_nothing(ratio),
            "distinct_2": _or_nothing(distinct(text, 2)),
            "distinct_3": _or_nothing(distinct(text, 3)),
        }


def compression(text: str) -> float:
    """Size when compressed by zlib (level 9) over the size in UTF-8; NaN for less than ``LEAST_BYTES``."""
    raw = _bytes(text)
    return math.nan if len(raw) < LEAST_BYTES else len(zlib.compress(raw, 9)) / len(raw)


def distinct(text: str, n: int) -> float:
    """Distinct n-grams of words, in lower case, over all of them; NaN where there are none."""
    words = text.lower().split()
    grams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else math.nan


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _or_nothing(value: float) -> Score:
    return NOTHING if math.isnan(value) else Score(value)
