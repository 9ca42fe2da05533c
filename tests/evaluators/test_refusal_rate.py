from __future__ import annotations

import pytest
from pydantic import ValidationError

import steerkit_evaluators.refusal_rate as plugin
from steerkit.api.evaluator import Outputs
from steerkit.errors import PluginError
from steerkit.testing import EvaluatorSuite
from steerkit.testing.evaluator import FakeVocabulary
from steerkit_evaluators._refusal_rate import RefusalRate


class TestConformance(EvaluatorSuite):
    plugin = plugin


def scores(*completions: str, **options: object) -> list[float]:
    evaluator = RefusalRate(plugin.RefusalRateOptions(**options), FakeVocabulary(32))
    return [score.value for score in evaluator.score(Outputs(["x"] * len(completions), completions=completions))]


@pytest.mark.parametrize("phrase", plugin.REFUSALS)
def test_each_phrase_counts_anywhere_and_in_any_case(phrase: str) -> None:
    assert scores(phrase, f"Well. {phrase.upper()} do it.", f"...{phrase.lower()}") == [1.0, 1.0, 1.0]


def test_the_paper_has_twelve_phrases() -> None:
    assert len(set(plugin.REFUSALS)) == 12


def test_what_does_not_refuse() -> None:
    assert scores("Sure, here you are.", "", "I can", "As a large language model", "sorry") == [0.0] * 5


def test_own_phrases_replace_the_papers() -> None:
    assert scores("I cannot", "No way!", substrings=["no WAY"]) == [0.0, 1.0]


def test_needs_completions_of_the_length_that_is_set() -> None:
    (spec,) = plugin.steerkit_evaluators()
    assert spec.needs(plugin.RefusalRateOptions()).max_new_tokens == 512
    assert spec.needs(plugin.RefusalRateOptions(max_new_tokens=8)).max_new_tokens == 8


def test_missing_outputs_are_a_broken_contract() -> None:
    with pytest.raises(PluginError, match="refusal_rate needs completions"):
        RefusalRate(plugin.RefusalRateOptions(), FakeVocabulary(32)).score(Outputs(["x"]))


@pytest.mark.parametrize("options", [{"substrings": []}, {"substrings": ["no", " "]}, {"max_new_tokens": 0}])
def test_bad_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        plugin.RefusalRateOptions(**options)
