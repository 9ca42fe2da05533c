"""What a plan can know can't work, where one section meets another."""

from __future__ import annotations

import pytest

from tests.plan.conftest import RECIPE, Planner, Problems

SPLIT = RECIPE.replace("{train: 4, test: 2}", "{train: 3, validation: 1, test: 2}")
COSMIC = SPLIT + (
    "search:\n  chosen:\n    over: warmth\n"
    "    preset: {cosmic: {harmful: warm.validation, harmless: cold.validation, OWN}}\n"
)
TALKS = (
    "data:\n"
    "  talks: {inline: [{turns: [{role: user, content: a}, {role: assistant, content: b}, "
    "{role: user, content: c}]}], messages: turns}\n"
)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ("generated", "generated are tokens behind the prompt, and only prompts are read here"),
        ('"completion[:2]"', "completion[:2] are tokens behind the prompt"),
        ("assistant", "1 of 1 example of warm.validation has no such turn of the assistant's"),
        ("answer_prefix", "1 of 1 example of warm.validation has no answer_prefix"),
    ],
)
def test_activations_are_read_at_tokens_that_there_are(problems: Problems, positions: str, message: str) -> None:
    found = problems(COSMIC.replace("OWN", f"positions: {positions}"))
    assert any(message in text for _, _, text in found)
    assert {where for _, where, _ in found} == {"search.chosen.preset.cosmic.positions"}


def test_an_evaluators_examples_have_the_tokens_too(problems: Problems, plan: Planner) -> None:
    text = SPLIT.replace(
        "evaluate:\n",
        "evaluate:\n  - activation_cosine: {data: talks, like: warm.test, classes: [warm.train, cold.train], "
        "positions: assistant}\n",
    ).replace("data:\n", TALKS, 1)
    found = problems(text)
    assert {where for _, where, _ in found} == {"evaluate.0.activation_cosine.positions"}
    assert not any("examples of talks" in told for _, _, told in found), "only what is compared lacks them"
    assert plan(text.replace("positions: assistant", "positions: user"))


def test_bounds_leave_room_between_them(problems: Problems, plan: Planner) -> None:
    text = SPLIT + "filter: {warm: {refusal_score: {tokens: [x], at_least: 2, at_most: 1}}}\n"
    assert problems(text)[0][1:] == (
        "filter.warm.refusal_score",
        "no score is at least 2 and at most 1; leave out one of them, or change their numbers",
    )
    assert plan(text.replace("at_most: 1", "at_most: 2")).filters
    bounded = COSMIC.replace("OWN", "share: 0.5") + "    subject_to: {kl: {at_least: 3}}\n"
    ((_, where, message),) = problems(bounded)
    assert where.startswith("search.chosen") and "no score is at least 3 and at most 0.1" in message


TRADEOFF = SPLIT.replace(
    "directions:\n",
    "  both: {of: {a: warm, b: cold}}\n  more: {of: {a: cold, b: probe}}\ndirections:\n",
).replace(
    "evaluate:\n",
    "monitors: {harm: {direction: warmth, above: 1}}\n"
    "evaluate:\n"
    "  - degeneration: {data: [warm.test, cold.test], max_new_tokens: 3}\n"
    "  - monitor_auroc: {data: [both.test, more.test, probe.test], monitor: harm, positive: a}\n",
)


@pytest.mark.parametrize(
    ("evaluator", "should", "where", "message"),
    [
        ("degeneration", "warm.test", "evaluator", "unknown evaluator 'degeneration'. "),
        (
            "monitor_auroc",
            "[both.test, more.test]",
            "should",
            "of all examples of a data set together, so it has none of both.test and more.test: name one",
        ),
    ],
)
def test_a_tradeoff_is_of_values_that_results_have(
    problems: Problems, plan: Planner, evaluator: str, should: str, where: str, message: str
) -> None:
    def text(evaluator: str, should: str, should_not: str) -> str:
        written = f"tradeoff: {{evaluator: {evaluator}, should: {should}, should_not: {should_not}}}"
        return TRADEOFF.replace("report: {", f"report: {{{written}, ")

    should_not = "cold.test" if evaluator == "degeneration" else "probe.test"
    ((_, at, told),) = problems(text(evaluator, should, should_not))
    assert at == f"report.tradeoff.{where}" and message in told
    assert plan(text("degenerate", "warm.test", "cold.test"))
    assert plan(text("crossed", "[both.test, more.test]", "probe.test"))
