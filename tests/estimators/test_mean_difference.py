from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import steerkit_estimators.mean_difference as plugin
from steerkit.api.architecture import Layout, Tap
from steerkit.api.estimator import ClassStatistics, EstimationRequest
from steerkit.errors import DataError
from steerkit.testing import EstimatorSuite
from steerkit.types import Positions, Site
from steerkit_estimators._mean_difference import MeanDifference


class TestConformance(EstimatorSuite):
    plugin = plugin


def statistics(rows: list[list[float]]) -> ClassStatistics:
    values = torch.tensor(rows, dtype=torch.float64)
    return ClassStatistics(count=len(rows), mean=values.mean(0))


SITE = Site("resid_pre", 0)
LAYOUT = Layout(2, "model", Tap("embed"), (), "norm", "head")


def request(classes: dict[str, ClassStatistics]) -> EstimationRequest:
    return EstimationRequest((SITE,), Positions("last"), LAYOUT, statistics={SITE: classes})


def estimate(positive: ClassStatistics, negative: ClassStatistics) -> torch.Tensor:
    made = MeanDifference(plugin.MeanDifferenceOptions())
    return made.estimate(request({"positive": positive, "negative": negative})).vectors[SITE]


def test_exact_arithmetic() -> None:
    vectors = estimate(statistics([[1.0, 2.0], [3.0, 6.0]]), statistics([[0.0, 1.0], [0.0, -1.0], [3.0, 0.0]]))
    assert vectors.tolist() == [[1.0, 4.0]]
    assert vectors.dtype == torch.float64


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(0, 2**31),
)
def test_agrees_with_the_formula_written_as_a_loop(n_positive: int, n_negative: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    positive = torch.randn(n_positive, width, generator=generator, dtype=torch.float64)
    negative = torch.randn(n_negative, width, generator=generator, dtype=torch.float64)
    literal = [
        sum(float(row[i]) for row in positive) / n_positive - sum(float(row[i]) for row in negative) / n_negative
        for i in range(width)
    ]
    found = estimate(ClassStatistics(n_positive, positive.mean(0)), ClassStatistics(n_negative, negative.mean(0)))
    assert torch.allclose(found[0], torch.tensor(literal, dtype=torch.float64), rtol=0, atol=1e-12)


def test_swapping_the_classes_turns_the_direction_around() -> None:
    positive, negative = statistics([[1.0, 5.0]]), statistics([[2.0, 3.0]])
    assert torch.equal(estimate(positive, negative), -estimate(negative, positive))


@pytest.mark.parametrize(
    ("positive", "negative", "said"),
    [
        (statistics([[1.0, 2.0]]), statistics([[1.0, 2.0], [1.0, 2.0]]), "exactly the same mean"),
        (statistics([[1.0, float("nan")]]), statistics([[1.0, 2.0]]), "1 of 2 components of the positive class"),
        (statistics([[1.0, 2.0]]), ClassStatistics(0, torch.zeros(2)), "the negative class holds no token"),
        (statistics([[1.0, 2.0]]), statistics([[1.0]]), "width 2 and the negative class 1"),
    ],
)
def test_refusals_say_what_is_wrong(positive: ClassStatistics, negative: ClassStatistics, said: str) -> None:
    with pytest.raises(DataError, match=said):
        estimate(positive, negative)


def test_a_missing_class_is_named() -> None:
    with pytest.raises(DataError, match="needs a positive class, and only negative is given"):
        MeanDifference(plugin.MeanDifferenceOptions()).estimate(request({"negative": statistics([[1.0]])}))
