"""What training prompts alone foretell of a direction, before anything is steered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from steerkit.api.estimator import NEGATIVE, POSITIVE, ClassStatistics
from steerkit.engine.measuring.separation import d_prime, discriminant

if TYPE_CHECKING:
    from steerkit.types import Example, Site, Vectors

_AT_ONCE: Final = 2**22
"""Differences whose lengths are computed in one go: 32 MB of float64."""


@dataclass(frozen=True)
class Predictors:
    """How steerable a direction promises to be, by the prompts that it was estimated from. None: not to be said.

    Both come without a pass of their own, and both were found to go along with how well adding a direction works
    (Braun et al., 2025, arXiv 2505.22637): directions of data whose differences agree, and whose classes lie apart,
    steer more reliably. They are of the training prompts, so they flatter a direction in a space of many dimensions
    where prompts are few; compare them between directions of as many prompts.

    Args:
        agreement: mean cosine of the differences, positive minus negative, with their mean; 1 where all point one way.
        d_prime: difference of the classes' mean projections on the direction over the root of the mean of their two
            variances (discriminability).
        paired: whether differences are those of pairs; else each positive prompt's to each negative one's.
    """

    agreement: float | None
    d_prime: float | None
    paired: bool

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def agreement(positive: Tensor, negative: Tensor, *, paired: bool) -> float | None:
    """Mean cosine of activation differences with their mean (2505.22637, section 4).

    Args:
        positive: ``[n, d_model]``.
        negative: ``[m, d_model]``; where ``paired``, as many, each beside its other side.
        paired: whether row is taken from row; else every one of ``n·m`` differences counts.

    Returns:
        None where the classes have one mean. A difference of length 0 has no cosine and is left out.
    """
    high, low = positive.double(), negative.double()
    mean = high.mean(0) - low.mean(0)
    size, least = float(mean.norm()), 1e-9 * float(torch.cat([high, low]).norm(dim=1).max())
    if size <= least:
        return None
    unit = mean / size
    if paired:
        gaps = high - low
        return _mean_cosine([(gaps @ unit, gaps.norm(dim=1))], least)
    centre = low.mean(0)  # keeps what is common to all from drowning the differences
    high, low = high - centre, low - centre
    pieces = (
        ((some @ unit)[:, None] - (low @ unit)[None, :], torch.cdist(some, low))
        for some in high.split(max(1, _AT_ONCE // len(low)))
    )
    return _mean_cosine(pieces, least)


def _mean_cosine(pieces: Iterable[tuple[Tensor, Tensor]], least: float) -> float | None:
    total, n = 0.0, 0
    for along, length in pieces:
        some = length > least
        total += float((along[some] / length[some]).sum())
        n += int(some.sum())
    return total / n if n else None


def predict(
    vectors: Mapping[Site, Vectors],
    read: Mapping[Site, Mapping[str, ClassStatistics]],
    examples: Mapping[str, Sequence[Example]],
) -> dict[Site, Predictors]:
    """The predictors of a direction at each of its sites that its two classes were read at.

    Args:
        vectors: ``{site: [rank, width]}``.
        read: what was captured, with ``prompt_means``.
        examples: of each class, in the order in which they were read.

    Returns:
        nothing for an estimator that has no statistics of a positive and a negative class.
    """
    found = {}
    for site, value in vectors.items():
        classes = read.get(site, {})
        if POSITIVE not in classes or NEGATIVE not in classes:
            continue
        high, low = classes[POSITIVE].prompt_means(), classes[NEGATIVE].prompt_means()
        order = _pairing(examples)
        paired = order is not None and len(high) == len(low) == len(order)
        ordered = low[order] if paired and order is not None else low
        direction = value.detach().cpu().double()
        unit = direction[0] / direction[0].norm() if len(direction) == 1 else discriminant(direction, high, low)
        apart = None if unit is None else d_prime(high @ unit, low @ unit)
        found[site] = Predictors(agreement(high, ordered, paired=paired), apart, paired)
    return found


def _pairing(examples: Mapping[str, Sequence[Example]]) -> list[int] | None:
    """For each positive example the place of its other side among the negative ones, where all are pairs."""
    high, low = ([one.pair for one in examples.get(label, ())] for label in (POSITIVE, NEGATIVE))
    if None in high or len(set(high)) < len(high) or sorted(map(str, high)) != sorted(map(str, low)):
        return None
    return [low.index(number) for number in high]
