"""A number that is no number is one problem: what stands in for it while the rest is checked makes no second one."""

from __future__ import annotations

import pytest

from tests.plan.conftest import Problems

RECIPE = """\
model: {source: "tiny-random:llama"}
data:
  warm: {inline: [w1, w2, w3, w4], split: {train: 3, validation: 1}}
  cold: {inline: [c1, c2, c3, c4], split: {train: 3, validation: 1}}
  probe: {inline: [p1, p2, p3]}
filter: {warm: {refusal_score: {tokens: [x], at_least: -9}}}
directions:
  one: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}
search:
  way:
    over: one
    coefficients: [1, 2]
    scores: {gone: {refusal_score: {data: warm.validation, under: [add], tokens: [x]}}}
    minimise: gone
    subject_to: {room: {score: gone, at_least: 1}}
conditions: {dose: {interventions: [{add: {direction: one}}], sweep: {coefficient: [3, 4]}}}
evaluate: [{refusal_score: {data: probe, tokens: [x]}}]
"""


@pytest.mark.parametrize(
    ("before", "after", "where"),
    [
        ("coefficients: [1, 2]", "coefficients: [.nan]", ["search.way.coefficients.0"]),
        ("coefficients: [1, 2]", "coefficients: [1, .inf]", ["search.way.coefficients.1"]),
        (
            "coefficients: [1, 2]",
            "coefficients: [.nan, -.inf]",
            ["search.way.coefficients.0", "search.way.coefficients.1"],
        ),
        ("coefficient: [3, 4]", "coefficient: [.nan, 0]", ["conditions.dose.sweep.coefficient.0"]),
        ("at_least: 1}", "at_least: 1, at_most: .nan}", ["search.way.subject_to.room.at_most"]),
        ("at_least: 1}", "at_least: .inf, at_most: -1}", ["search.way.subject_to.room.at_least"]),
        ("at_least: -9", "at_least: .nan, at_most: -1", ["filter.warm.refusal_score.at_least"]),
    ],
)
def test_it_is_told_once(problems: Problems, before: str, after: str, where: list[str]) -> None:
    found = problems(RECIPE.replace(before, after))
    assert [place for _, place, _ in found] == where
    assert all("is not a finite number" in message for _, _, message in found)


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ("coefficients: [1, 0]", "a candidate that is added 0 times does nothing; leave 0 out"),
        ("coefficients: [1, 1]", "expected at least one coefficient, and each of them once"),
        ("coefficients: []", "expected at least one coefficient, and each of them once"),
    ],
)
def test_what_is_wrong_with_a_list_of_numbers_is_still_told(problems: Problems, after: str, message: str) -> None:
    ((_, where, told),) = problems(RECIPE.replace("coefficients: [1, 2]", after))
    assert (where, told) == ("search.way.coefficients", message)


@pytest.mark.parametrize(
    ("written", "where", "said"),
    [
        ("at: []", "control.at", "expected 'all' or 'extremes' or a list of at least 1 item, not []"),
        ("at: 3", "control.at", "expected 'all' or 'extremes' or a list, not 3"),
    ],
)
def test_a_list_that_may_be_a_word_is_told_in_one_sentence(
    problems: Problems, written: str, where: str, said: str
) -> None:
    ((_, place, message),) = problems(RECIPE + f"control: {{{written}}}\n")
    assert (place, message) == (where, said)


def test_an_empty_mapping_is_called_that(problems: Problems) -> None:
    found = problems(
        RECIPE.replace("{gone: {refusal_score: {data: warm.validation, under: [add], tokens: [x]}}}", "{}")
    )
    assert ("search.way.scores", "expected a mapping of at least 1 item, not {}") in [one[1:] for one in found]
