"""The suite of evaluators must catch what it is for: each broken one fails the check that names its fault."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from steerkit.api.evaluator import Evaluator, Outputs, Score
from steerkit.api.hookspecs import (
    EvaluatorSpec,
    Needs,
    NoOptions,
)
from steerkit.testing import EvaluatorSuite
from tests.testing.common import module


def evaluator_suite(
    function: Callable[[Outputs], Sequence[Score]],
    needs: Needs | None = None,
    *,
    kind: str = "mean",
    label: str = "nats",
) -> EvaluatorSuite:
    wanted = needs or Needs(next_token_logits=True)

    class Made(Evaluator[NoOptions]):
        unit = label

        def score(self, outputs: Outputs) -> Sequence[Score]:
            return function(outputs)

    class Suite(EvaluatorSuite):
        plugin = module(
            "steerkit_evaluators",
            EvaluatorSpec("made_up", "Made up.", "nowhere:Made", NoOptions, needs=lambda options: wanted),
        )

        def implementation(self) -> type[Any]:
            return Made

    return Suite()


def logits(outputs: Outputs) -> torch.Tensor:
    assert outputs.next_token_logits is not None
    return outputs.next_token_logits


def first(outputs: Outputs) -> list[Score]:
    return [Score(float(row[0])) for row in logits(outputs)]


def overwriting_scores(outputs: Outputs) -> list[Score]:
    logits(outputs).sub_(logits(outputs).mean())
    return first(outputs)


def whole_rows(outputs: Outputs) -> list[Score]:
    assert outputs.sequence_logits is not None
    return [Score(float(row.mean())) for row in outputs.sequence_logits]


SEQUENCES = Needs(sequence_logits=True)
BAD_EVALUATORS: list[tuple[EvaluatorSuite, str, str]] = [
    (evaluator_suite(first, Needs()), "test_needs_something", ""),
    (evaluator_suite(lambda o: first(o)[1:]), "test_one_finite_score_per_example", ""),
    (evaluator_suite(lambda o: [Score(row[0]) for row in logits(o)]), "test_one_finite_score_per_example", ""),  # type: ignore[arg-type]
    (evaluator_suite(first, label=""), "test_scores_can_be_summarised", ""),
    (
        evaluator_suite(lambda o: [Score(float(row[0] + torch.rand(()))) for row in logits(o)]),
        "test_is_deterministic",
        "",
    ),
    (
        evaluator_suite(lambda o: [Score(float(row[0] - logits(o).mean())) for row in logits(o)]),
        "test_batches_can_be_cut_anywhere",
        "",
    ),
    (
        evaluator_suite(lambda o: [Score(float(i)) for i in range(len(o.texts))]),
        "test_scores_follow_the_order_of_examples",
        "",
    ),
    (evaluator_suite(overwriting_scores), "test_leaves_its_input_alone", ""),
    (
        evaluator_suite(lambda o: [Score(float(torch.nan_to_num(row[0]))) for row in logits(o)]),
        "test_nan_in_nan_out",
        "steered",
    ),
    (evaluator_suite(first, Needs(next_token_logits=True, baseline=True)), "test_nan_in_nan_out", "baseline"),
    (evaluator_suite(whole_rows, SEQUENCES), "test_masked_tokens_do_not_count", ""),
    (evaluator_suite(whole_rows, SEQUENCES), "test_a_text_without_tokens_weighs_nothing", ""),
]


@pytest.mark.parametrize(("suite", "check", "argument"), BAD_EVALUATORS)
def test_a_bad_evaluator_is_caught(suite: EvaluatorSuite, check: str, argument: str) -> None:
    with pytest.raises(AssertionError):
        getattr(suite, check)(*[argument] * bool(argument))


def test_a_derived_value_that_rises_and_falls_is_caught() -> None:
    suite = evaluator_suite(first)
    suite.implementation().derived = {"bump": lambda value: (value - 1) ** 2}
    with pytest.raises(AssertionError, match="bump isn't monotone"):
        suite.test_derived_values_are_monotone()
