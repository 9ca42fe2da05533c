from __future__ import annotations

import math
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import settings as checked
from hypothesis import strategies as st
from pydantic import ValidationError

import steerkit_evaluators.refusal_score as plugin
from steerkit.api.evaluator import Outputs
from steerkit.errors import DataError, PluginError
from steerkit.testing import EvaluatorSuite
from steerkit.testing.evaluator import FakeVocabulary
from steerkit_evaluators._refusal_score import RefusalScore


class TestConformance(EvaluatorSuite):
    plugin = plugin


class TestExact(EvaluatorSuite):
    plugin = plugin
    settings: ClassVar[dict[str, Any]] = {"epsilon": 0, "tokens": ["I", 7]}


def scores(logits: torch.Tensor, **options: Any) -> list[float]:
    evaluator = RefusalScore(plugin.RefusalScoreOptions(**options), FakeVocabulary(logits.shape[-1]))
    return [score.value for score in evaluator.score(Outputs(["x"] * len(logits), next_token_logits=logits))]


def literal(row: list[float], tokens: set[int], epsilon: float) -> float:
    """The paper's formula, one number at a time."""
    total = math.fsum(math.exp(value - max(row)) for value in row)
    p = [math.exp(value - max(row)) / total for value in row]
    inside = math.fsum(p[t] for t in range(len(p)) if t in tokens)
    outside = math.fsum(p[t] for t in range(len(p)) if t not in tokens)
    return math.log(inside + epsilon) - math.log(outside + epsilon)


def test_exact_arithmetic() -> None:
    # p = 1/2, 1/4, 1/4: the log-odds of token 0 are 0, and those of tokens 0 and 1 log 3.
    logits = torch.tensor([[2.0, 1.0, 1.0]]).log()
    assert scores(logits, tokens=[0], epsilon=0) == pytest.approx([0.0], abs=1e-7)
    assert scores(logits, tokens=[0, 1], epsilon=0) == pytest.approx([math.log(3)])


@checked(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-30, 30, width=32), min_size=4, max_size=12),
    st.sets(st.integers(0, 3), min_size=1, max_size=3),
    st.sampled_from([1e-8, 1e-3, 0.0]),
)
def test_agrees_with_the_formula_written_as_a_loop(row: list[float], tokens: set[int], epsilon: float) -> None:
    found = scores(torch.tensor([row]), tokens=sorted(tokens), epsilon=epsilon)
    assert found == pytest.approx([literal(row, tokens, epsilon)], rel=1e-9, abs=1e-9)


def test_epsilon_bounds_the_score_and_without_it_there_is_no_bound() -> None:
    logits = torch.tensor([[500.0, 0.0]])
    assert scores(logits, tokens=[0]) == pytest.approx([math.log((1 + 1e-8) / 1e-8)])
    assert scores(logits, tokens=[0], epsilon=0) == pytest.approx([500.0])


def test_a_token_that_is_named_twice_counts_once() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    assert scores(logits, tokens=["I", 1]) == scores(logits, tokens=["I"])  # the fake vocabulary's "I" is token 1


def test_more_probability_on_refusals_raises_the_score() -> None:
    low, high = scores(torch.tensor([[0.0, 0.0, 1.0], [0.0, 2.0, 1.0]]))
    assert high > low


def test_the_published_token_sets_are_token_ids() -> None:
    options = plugin.RefusalScoreOptions(tokens=[40, 2121])
    assert RefusalScore(options, FakeVocabulary(151936)).token_ids == (40, 2121)


def test_a_foreign_token_id_is_refused() -> None:
    with pytest.raises(DataError, match="235285 is token 235285, and the model has logits for 0 to 31"):
        RefusalScore(plugin.RefusalScoreOptions(tokens=[235285]), FakeVocabulary(32))


def test_missing_outputs_are_a_broken_contract() -> None:
    evaluator = RefusalScore(plugin.RefusalScoreOptions(), FakeVocabulary(32))
    with pytest.raises(PluginError, match="refusal_score needs next-token logits"):
        evaluator.score(Outputs(["x"]))


@pytest.mark.parametrize("options", [{"tokens": []}, {"epsilon": -1e-9}, {"epsilon": math.nan}, {"tokens": [True]}])
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        plugin.RefusalScoreOptions(**options)
