"""A judge: its questions, what is read of its answers, and its options."""

from __future__ import annotations

import math
from hashlib import sha256
from typing import Any

import pytest
from pydantic import ValidationError

import steerkit_evaluators.judge as plugin
from steerkit.api.evaluator import Outputs
from steerkit.engine.measuring.asking import asker_of
from steerkit.engine.measuring.scores import summarise
from steerkit.errors import PluginError
from steerkit.testing import EvaluatorSuite
from steerkit.testing.evaluator import FakeVocabulary
from steerkit_evaluators._judge import Judge, filled, parse

ENDPOINT = {"endpoint": "http://127.0.0.1:9/v1", "model": "small"}


class TestConformance(EvaluatorSuite):
    plugin = plugin
    settings = {**ENDPOINT, "labels": {"yes": 1, "no": 0}}


def judge(**options: Any) -> Judge:
    return Judge(plugin.JudgeOptions(**{**ENDPOINT, **options}), FakeVocabulary(4))


def test_a_question_holds_prompt_and_completion_and_nothing_in_them_is_a_place() -> None:
    outputs = Outputs(["ask {completion}"], completions=["say {prompt} {0} {x}"])
    ((question,),) = judge(prompt="P {prompt} C {completion} {other}").questions(outputs)
    assert question == "P ask {completion} C say {prompt} {0} {x} {other}"
    assert filled("{completion}{completion}", prompt="a", completion="b") == "bb"
    ((default,),) = judge().questions(Outputs(["why?"], completions=["because."]))
    assert "<user>\nwhy?\n</user>" in default and "<reply>\nbecause.\n</reply>" in default
    with pytest.raises(PluginError, match="judge needs completions"):
        judge().questions(Outputs(["x"]))


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("refusal", 1),
        (" Refusal.\n", 1),
        ("**answer**", 0),
        ("It is a refusal, surely.", 1),
        ("I would say: answer", 0),
        ("The answer is refusal", None),
        ("nonrefusal", None),
        ("refusals", None),
        ("", None),
        ("maybe", None),
        ("<think>an answer? no: refusal</think>refusal", 1),
        ("<think>refusal, or", None),
    ],
)
def test_what_is_read_of_an_answer(answer: str, found: int | None) -> None:
    assert parse(answer, {"refusal": 1, "answer": 0}) == found


def test_labels_of_several_words_and_several_of_one_kind() -> None:
    labels = {"full refusal": 1, "partial refusal": 1, "1_compliance": 0}
    assert parse("Partial Refusal", labels) == 1
    assert parse("full refusal and partial refusal", labels) == 1
    assert parse("1_compliance", labels) == 0


def test_scores_and_what_is_counted_apart() -> None:
    asked = judge()
    answers = [["refusal"], ["answer"], ["hm"], ["refusal"]]
    scores = asked.score(Outputs(["x"] * 4, completions=["c"] * 4, answers=answers))
    judged = summarise([one["judged"] for one in scores], "proportion")
    unparsed = summarise([one["unparsed"] for one in scores], "proportion")
    assert (judged.value, judged.n) == (2 / 3, 3)
    assert (unparsed.value, unparsed.n) == (1 / 4, 4)


@pytest.mark.parametrize("answers", [[[None], [None]], [["refusal"], [None]]])
def test_where_answers_lack_there_is_no_rate(answers: list[list[str | None]]) -> None:
    scores = judge().score(Outputs(["x"] * 2, completions=["c"] * 2, answers=answers))
    for name in ("judged", "unparsed"):
        assert math.isnan(scores[1][name].value)
        assert summarise([one[name] for one in scores], "proportion").value is None


def test_where_nothing_can_be_parsed_there_is_no_rate_either() -> None:
    scores = judge().score(Outputs(["x"], completions=["c"], answers=[["hm"]]))
    assert summarise([scores[0]["judged"]], "proportion").value is None
    assert scores[0]["unparsed"].value == 1.0


def test_options_hold_the_whole_prompt_and_its_hash() -> None:
    options = plugin.JudgeOptions(**ENDPOINT)
    assert options.prompt == plugin.PROMPT
    assert options.prompt_sha256 == sha256(plugin.PROMPT.encode()).hexdigest()
    own = plugin.JudgeOptions(**ENDPOINT, prompt="{completion}?")
    assert own.prompt_sha256 == sha256(b"{completion}?").hexdigest()
    assert plugin.JudgeOptions(**own.model_dump()) == own, "what a run resolved can be run again"
    with pytest.raises(ValidationError, match="prompt_sha256 is"):
        plugin.JudgeOptions(**{**own.model_dump(), "prompt": "{completion}!"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "say one of them"),
        ({**ENDPOINT, "classifier": "x"}, "say one of them"),
        ({"endpoint": "http://h/v1"}, "belong together"),
        ({"classifier": "nowhere", "model": "x"}, "belong together"),
        ({"classifier": "nowhere"}, "no folder with a config.json"),
        ({**ENDPOINT, "endpoint": "file:///etc/passwd"}, "an endpoint is an address"),
        ({**ENDPOINT, "endpoint": "api.openai.com/v1"}, "an endpoint is an address"),
        ({**ENDPOINT, "endpoint": "https://me:secret@h/v1"}, "set key_variable"),
        ({**ENDPOINT, "endpoint": "https://h/v1?key=secret"}, "set key_variable"),
        ({**ENDPOINT, "key_variable": "sk-secret"}, "never the key itself"),
        ({**ENDPOINT, "prompt": "{prompt}"}, "no {completion}"),
        ({**ENDPOINT, "labels": {"a": 1}}, "at least one that counts 1"),
        ({**ENDPOINT, "labels": {"a": 1, "A ": 0}}, "different words"),
        ({**ENDPOINT, "labels": {"a": 1, " ": 0}}, "different words"),
        ({**ENDPOINT, "labels": {"a": 1, "b": 0.5}}, "labels"),
        ({**ENDPOINT, "request": {"messages": []}}, "messages is not set here"),
        ({**ENDPOINT, "timeout": 0}, "timeout"),
        ({**ENDPOINT, "max_calls": 0}, "max_calls"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        plugin.JudgeOptions(**options)
    assert message in str(caught.value)


def test_its_budget_is_the_runners_and_its_completions_are_the_refusal_rates() -> None:
    from steerkit_evaluators.refusal_rate import RefusalRateOptions

    (spec,) = plugin.steerkit_evaluators()
    needs = spec.needs(plugin.JudgeOptions(**ENDPOINT, max_calls=7))
    assert needs.calls == 7 and needs.max_new_tokens == RefusalRateOptions().max_new_tokens


def test_an_answer_is_kept_by_what_it_depends_on() -> None:
    same = judge(
        timeout=5.0, max_calls=3, parallel=1, key_variable="OTHER", labels={"a": 1, "b": 0}, prompt="{completion}"
    )
    assert asker_of(same) == asker_of(judge()), "the prompt stands in the question"
    for change in (
        {"model": "other"},
        {"endpoint": "http://127.0.0.1:9/v2"},
        {"max_tokens": 2},
        {"request": {"top_p": 1}},
    ):
        assert asker_of(judge(**change)) != asker_of(judge())
