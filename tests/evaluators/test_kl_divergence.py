from __future__ import annotations

import math
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import settings as checked
from hypothesis import strategies as st

import steerkit_evaluators.kl_divergence as plugin
from steerkit.api.evaluator import Outputs
from steerkit.errors import PluginError
from steerkit.testing import EvaluatorSuite
from steerkit.testing.evaluator import FakeVocabulary
from steerkit_evaluators._kl_divergence import KlDivergence


class TestConformance(EvaluatorSuite):
    plugin = plugin


class TestExact(EvaluatorSuite):
    plugin = plugin
    settings: ClassVar[dict[str, Any]] = {"epsilon": 0}


def divergence(baseline: list[float], steered: list[float], **options: float) -> float:
    evaluator = KlDivergence(plugin.KlDivergenceOptions(**options), FakeVocabulary(len(baseline)))
    outputs = Outputs(
        ["x"],
        next_token_logits=torch.tensor([steered]),
        baseline=Outputs(["x"], next_token_logits=torch.tensor([baseline])),
    )
    (score,) = evaluator.score(outputs)
    return score.value


def probabilities(row: list[float]) -> list[float]:
    total = math.fsum(math.exp(value - max(row)) for value in row)
    return [math.exp(value - max(row)) / total for value in row]


def literal(baseline: list[float], steered: list[float], epsilon: float) -> float:
    """The paper's formula, one number at a time."""
    pairs = zip(probabilities(baseline), probabilities(steered), strict=True)
    return math.fsum(p * (math.log(p + epsilon) - math.log(q + epsilon)) for p, q in pairs)


ROW = st.lists(st.floats(-20, 20, width=32), min_size=5, max_size=5)


@checked(max_examples=60, deadline=None)
@given(ROW, ROW, st.sampled_from([1e-6, 1e-2, 0.0]))
def test_agrees_with_the_formula_written_as_a_loop(first: list[float], second: list[float], epsilon: float) -> None:
    assert divergence(first, second, epsilon=epsilon) == pytest.approx(literal(first, second, epsilon), abs=1e-9)


def test_exact_arithmetic() -> None:
    # p = (1/2, 1/2), q = (1/4, 3/4): KL = log 2 − log(3) / 2.
    found = divergence([0.0, 0.0], [0.0, math.log(3)], epsilon=0)
    assert found == pytest.approx(math.log(2) - math.log(3) / 2, abs=1e-7)


def test_it_is_the_baselines_divergence_and_not_the_other_way_round() -> None:
    forth, back = divergence([0.0, 3.0], [0.0, 0.0], epsilon=0), divergence([0.0, 0.0], [0.0, 3.0], epsilon=0)
    assert forth == pytest.approx(literal([0.0, 3.0], [0.0, 0.0], 0.0))
    assert abs(forth - back) > 0.1


@pytest.mark.parametrize("epsilon", [0.0, 1e-6])
def test_of_a_model_with_itself_it_is_zero(epsilon: float) -> None:
    assert divergence([1.0, -2.0, 40.0], [1.0, -2.0, 40.0], epsilon=epsilon) == 0.0


def test_with_epsilon_it_can_be_negative() -> None:
    # p = (0.8, 0.2) and q = (1, 0): 0.8 log(1.8 / 2) + 0.2 log(1.2 / 1), while the exact divergence is positive.
    baseline, steered = [math.log(4), 0.0], [60.0, 0.0]
    found = divergence(baseline, steered, epsilon=1)
    assert found == pytest.approx(0.8 * math.log(0.9) + 0.2 * math.log(1.2), abs=1e-7)
    assert -math.log(1 + 2 * 1) < found < 0
    assert divergence(baseline, steered, epsilon=0) > 1


def test_impossible_tokens() -> None:
    never = -math.inf
    assert divergence([0.0, never], [0.0, 0.0], epsilon=0) == pytest.approx(math.log(2))
    assert divergence([0.0, never], [0.0, never], epsilon=0) == 0.0
    assert divergence([0.0, 0.0], [0.0, never], epsilon=0) == math.inf


def test_nan_where_the_baseline_gives_no_probability_is_still_nan() -> None:
    assert math.isnan(divergence([0.0, -math.inf], [0.0, math.nan], epsilon=0))


def test_missing_outputs_are_a_broken_contract() -> None:
    evaluator = KlDivergence(plugin.KlDivergenceOptions(), FakeVocabulary(4))
    with pytest.raises(PluginError, match="kl_divergence needs the baseline's outputs"):
        evaluator.score(Outputs(["x"], next_token_logits=torch.zeros(1, 4)))
