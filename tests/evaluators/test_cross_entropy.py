from __future__ import annotations

import math
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import settings as checked
from hypothesis import strategies as st
from pydantic import ValidationError

import steerkit_evaluators.cross_entropy as plugin
from steerkit.api.evaluator import Outputs, Score
from steerkit.api.hookspecs import Needs
from steerkit.engine.measuring.scores import summarise
from steerkit.errors import PluginError
from steerkit.testing import EvaluatorSuite
from steerkit.testing.evaluator import FakeVocabulary
from steerkit_evaluators import _cross_entropy
from steerkit_evaluators._cross_entropy import CrossEntropy


class TestConformance(EvaluatorSuite):
    plugin = plugin


class TestOfBaselineCompletions(EvaluatorSuite):
    plugin = plugin
    settings: ClassVar[dict[str, Any]] = {"of": "baseline_completions"}


def score(logits: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor) -> list[Score]:
    evaluator = CrossEntropy(plugin.CrossEntropyOptions(), FakeVocabulary(logits.shape[-1]))
    outputs = Outputs(["x"] * len(tokens), sequence_logits=logits, token_ids=tokens, token_mask=mask)
    return list(evaluator.score(outputs))


def test_exact_arithmetic() -> None:
    # Probabilities 1/2 and 1/4 of the two tokens that count: mean of log 2 and log 4.
    logits = torch.tensor([[[0.0, 0.0, 0.0, 0.0], [2.0, 1.0, 1.0, 0.0], [2.0, 1.0, 1.0, 0.0]]]).log()
    logits[0, 0] = 0.0
    found = score(logits, torch.tensor([[3, 0, 2]]), torch.tensor([[False, True, True]]))
    assert found[0].value == pytest.approx(1.5 * math.log(2))
    assert found[0].weight == 2.0


@checked(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9))
def test_agrees_with_the_formula_written_as_a_loop(seed: int, length: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 10 * torch.randn(2, length, 6, generator=generator)
    tokens = torch.randint(0, 6, (2, length), generator=generator)
    mask = torch.rand(2, length, generator=generator) < 0.7
    for row, found in enumerate(score(logits, tokens, mask)):
        losses = []
        for place in range(length):
            if mask[row, place]:
                exponentials = [math.exp(float(value)) for value in logits[row, place]]
                losses.append(-math.log(exponentials[int(tokens[row, place])] / math.fsum(exponentials)))
        assert found.weight == len(losses)
        if losses:
            assert found.value == pytest.approx(math.fsum(losses) / len(losses), rel=1e-9, abs=1e-9)
        else:
            assert math.isnan(found.value)


def test_long_texts_are_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, tokens = torch.randn(1, 7, 5, generator=generator), torch.randint(0, 5, (1, 7), generator=generator)
    mask = torch.ones(1, 7, dtype=torch.bool)
    (whole,) = score(logits, tokens, mask)
    monkeypatch.setattr(_cross_entropy, "CHUNK", 3)
    (pieces,) = score(logits, tokens, mask)
    assert pieces.value == pytest.approx(whole.value, rel=1e-12)
    assert pieces.weight == whole.weight == 7.0


def test_the_data_sets_value_is_the_mean_over_tokens() -> None:
    logits = torch.zeros(2, 4, 2)
    logits[0, 0, 0] = 100.0  # one token, certain: loss 0; the other row has three tokens of loss log 2
    mask = torch.tensor([[True, False, False, False], [True, True, True, False]])
    found = score(logits, torch.zeros(2, 4, dtype=torch.long), mask)
    assert summarise(found, "mean").value == pytest.approx(0.75 * math.log(2))


def test_an_empty_text_takes_no_part() -> None:
    mask = torch.tensor([[True, True], [False, False]])
    found = score(torch.zeros(2, 2, 4), torch.zeros(2, 2, dtype=torch.long), mask)
    assert math.isnan(found[1].value) and found[1].weight == 0.0
    summary = summarise(found, "mean")
    assert summary.value == pytest.approx(math.log(4)) and summary.n == 1
    assert "1 of 2 examples has nothing to measure" in summary.note


def test_perplexity_is_derived() -> None:
    assert CrossEntropy.derived["perplexity"](math.log(4)) == pytest.approx(4.0)


def test_needs_follow_the_options() -> None:
    (spec,) = plugin.steerkit_evaluators()
    assert spec.needs(plugin.CrossEntropyOptions()) == Needs(sequence_logits=True, max_text_tokens=256)
    own = plugin.CrossEntropyOptions(of="baseline_completions", max_new_tokens=32)
    assert spec.needs(own) == Needs(sequence_logits=True, baseline_completions=True, max_new_tokens=32)


@pytest.mark.parametrize("missing", ["sequence_logits", "token_ids", "token_mask"])
def test_missing_outputs_are_a_broken_contract(missing: str) -> None:
    parts: dict[str, Any] = {
        "sequence_logits": torch.zeros(1, 2, 4),
        "token_ids": torch.zeros(1, 2, dtype=torch.long),
        "token_mask": torch.ones(1, 2, dtype=torch.bool),
    }
    with pytest.raises(PluginError, match="cross_entropy needs"):
        CrossEntropy(plugin.CrossEntropyOptions(), FakeVocabulary(4)).score(Outputs(["x"], **{**parts, missing: None}))


@pytest.mark.parametrize("options", [{"of": "prompts"}, {"max_tokens": 1}, {"max_new_tokens": 0}])
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        plugin.CrossEntropyOptions(**options)
