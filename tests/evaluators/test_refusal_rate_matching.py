"""How phrases are found: literally as the paper does, or whatever the letters look like; and not in reasoning."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

import steerkit_evaluators.reasoning_share as share_plugin
import steerkit_evaluators.refusal_rate as plugin
from steerkit.api.evaluator import Outputs
from steerkit.testing import EvaluatorSuite
from steerkit.testing.evaluator import FakeVocabulary
from steerkit_evaluators._reasoning import TAGS, split
from steerkit_evaluators._reasoning_share import ReasoningShare
from steerkit_evaluators._refusal_rate import RefusalRate


class TestLiteral(EvaluatorSuite):
    plugin = plugin
    settings = {"match": "literal", "reasoning": "include"}


class TestShare(EvaluatorSuite):
    plugin = share_plugin


def rate(*completions: str, **options: Any) -> list[float]:
    evaluator = RefusalRate(plugin.RefusalRateOptions(**options), FakeVocabulary(4))
    return [score.value for score in evaluator.score(Outputs(["x"] * len(completions), completions=completions))]


DISGUISED = (
    "I can’t help",
    "I ‘cannot’ no, I can‛t",
    "Ｉ ｃａｎ＇ｔ do it",
    "I can´t",
    "I can′t",
    "**I** *cannot*",
    "I\n\n  cannot",
    "I\u00a0cannot",
    "# I `can't`",
    "I__'m__ sorry",
)


@pytest.mark.parametrize("text", DISGUISED)
def test_normalised_finds_what_literal_misses(text: str) -> None:
    assert rate(text) == [1.0]
    assert rate(text, match="literal") == [0.0]


def test_phrases_are_normalised_as_completions_are() -> None:
    assert rate("I won't", substrings=["I *won’t*"]) == [1.0]
    assert rate("I won't", "I *won’t*", substrings=["I *won’t*"], match="literal") == [0.0, 1.0]
    assert rate('He said "no way"', substrings=["“no"]) == [1.0]


def test_normalised_finds_all_that_literal_finds_and_no_more_in_plain_text() -> None:
    plain = [f"Well. {phrase} do it." for phrase in plugin.REFUSALS]
    others = ["Sure, here you are.", "I can", "As a large language model", "can not", "Icannot"]
    for match in ("literal", "normalised"):
        assert rate(*plain, match=match) == [1.0] * len(plain)
        assert rate(*others, match=match) == [0.0] * len(others)


@pytest.mark.parametrize("phrase", ["**", " # ", "`_`"])
def test_a_phrase_of_which_nothing_is_left_would_be_in_every_completion(phrase: str) -> None:
    with pytest.raises(ValidationError, match="match: literal"):
        plugin.RefusalRateOptions(substrings=(phrase,))
    assert rate("a ** b # c `_`", "a", substrings=[phrase], match="literal") == [1.0, 0.0]


@pytest.mark.parametrize(
    ("text", "said", "thought"),
    [
        ("plain", "plain", ""),
        ("<think>I cannot.</think>Sure.", "\nSure.", "I cannot."),
        ("Well <think>a</think> so <think>b</think> yes", "Well \n so \n yes", "a\nb"),
        ("Sure. <think>but I cannot", "Sure. \n", "but I cannot"),
        ("I cannot, they say.\n</think>\nSure.", "\nSure.", "I cannot, they say.\n"),
        ("<think>a <think>b</think> c</think>d", "d", "a <think>b\n\n c"),
        ("<|channel>thought\nI cannot<channel|>Sure.", "\nSure.", "\nI cannot"),
        ("<think>\n\n</think>Sure.", "\nSure.", ""),
        ("[THINK]x[/THINK]y<think>z", "\ny\n", "z\nx"),
        ("I <think", "I <think", ""),
    ],
)
def test_the_reasoning_part(text: str, said: str, thought: str) -> None:
    assert split(text, TAGS) == (said, thought)


def test_reasoning_is_left_out_unless_it_is_asked_for() -> None:
    texts = ("<think>I cannot.</think>Sure.", "<think>Sure.</think>I cannot.", "Sure. <think>I cannot", "I cannot")
    assert rate(*texts) == [0.0, 1.0, 0.0, 1.0]
    assert rate(*texts, match="literal") == [0.0, 1.0, 0.0, 1.0]
    assert rate(*texts, reasoning="include") == [1.0] * 4
    assert rate("<r>I cannot</r>Sure.", texts[0], tags=(("<r>", "</r>"),)) == [0.0, 1.0]


def test_the_share_of_completions_with_reasoning() -> None:
    evaluator = ReasoningShare(share_plugin.ReasoningShareOptions(), FakeVocabulary(4))
    texts = ["<think>a</think>b", "b", "<think>\n</think>b", "a</think>b", ""]
    found = evaluator.score(Outputs(["x"] * len(texts), completions=texts))
    assert [one["reasoning_share"].value for one in found] == [1.0, 0.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize("tags", [(("", "</r>"),), (("<r>", " "),), (("<r>", "<r>"),)])
def test_tags_that_cannot_be_found_are_refused(tags: Any) -> None:
    with pytest.raises(ValidationError, match="opens a reasoning part"):
        plugin.RefusalRateOptions(tags=tags)
