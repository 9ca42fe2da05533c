from __future__ import annotations

import math
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import settings as checked
from hypothesis import strategies as st
from pydantic import ValidationError

import steerkit_evaluators.choice_logit_difference as plugin
from steerkit.api.evaluator import Outputs
from steerkit.errors import DataError
from steerkit.testing import EvaluatorSuite
from steerkit_evaluators._choice_logit_difference import ChoiceLogitDifference


class TestConformance(EvaluatorSuite):
    plugin = plugin
    settings: ClassVar[dict[str, Any]] = {"positive": ["good", "great"], "negative": ["bad"]}


class Letters:
    """A vocabulary in which a text's first letter is its first token."""

    size = 26

    def token_id(self, text: str) -> int:
        return ord(text[0].lower()) - ord("a")


def evaluator(positive: list[str], negative: list[str]) -> ChoiceLogitDifference:
    options = plugin.ChoiceLogitDifferenceOptions(positive=positive, negative=negative)
    return ChoiceLogitDifference(options, Letters())


def scores(logits: torch.Tensor, positive: list[str], negative: list[str]) -> list[float]:
    outputs = Outputs(["x"] * len(logits), next_token_logits=logits)
    return [score.value for score in evaluator(positive, negative).score(outputs)]


def test_two_single_answers_give_the_difference_of_their_logits() -> None:
    logits = torch.arange(26.0)[None]
    assert scores(logits, ["yes"], ["no"]) == [24.0 - 13.0]
    assert scores(logits, ["no"], ["yes"]) == [13.0 - 24.0]


@checked(max_examples=40, deadline=None)
@given(st.lists(st.floats(-20, 20, width=32), min_size=26, max_size=26))
def test_agrees_with_the_log_odds_of_the_probabilities(row: list[float]) -> None:
    total = math.fsum(math.exp(value) for value in row)
    p = [math.exp(value) / total for value in row]
    literal = math.log(p[0] + p[1]) - math.log(p[2] + p[3])
    assert scores(torch.tensor([row]), ["a", "b"], ["c", "d"]) == pytest.approx([literal], rel=1e-9, abs=1e-9)


def test_answers_of_one_side_that_begin_alike_count_once() -> None:
    logits = torch.randn(3, 26, generator=torch.Generator().manual_seed(0))
    assert scores(logits, ["good", "great"], ["bad"]) == scores(logits, ["good"], ["bad"])


def test_sides_that_begin_alike_are_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"'good' and 'grim' \(token 6\)"):
        evaluator(["good", "nice"], ["bad", "grim"])


def test_an_answer_on_both_sides_is_refused_without_a_model() -> None:
    with pytest.raises(ValidationError, match="'good' stands in both positive and negative"):
        plugin.ChoiceLogitDifferenceOptions(positive=["good"], negative=["bad", "good"])


@pytest.mark.parametrize(
    "options", [{"positive": ["a"]}, {"positive": [], "negative": ["b"]}, {"positive": "a", "negative": ["b"]}]
)
def test_both_sides_are_lists_with_something_in_them(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        plugin.ChoiceLogitDifferenceOptions(**options)
