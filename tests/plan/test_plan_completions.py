"""Data sets of what the model says, as far as a plan knows them: parts, order, circles, cost."""

from __future__ import annotations

import pytest

from steerkit.plan import DataRef
from tests.plan.conftest import RECIPE, Planner, Problems

SAID = RECIPE.replace(
    "directions:\n",
    "  said: {completions: {of: warm, max_new_tokens: 5}}\n"
    "  steered: {completions: {of: warm, condition: warmer, max_new_tokens: 5}}\n"
    "  part: {completions: {of: probe.test, condition: 'dose[coefficient=0.5]', max_new_tokens: 3}}\n"
    "directions:\n"
    "  talk: {estimator: mean_difference, positive: steered.train, negative: said.train, site: blocks.1.resid_pre, "
    "positions: completion}\n",
)


def test_completions_have_the_parts_of_their_prompts(plan: Planner) -> None:
    found = plan(SAID)
    assert list(found.data) == ["warm", "cold", "probe", "said", "steered", "part"]
    for name, of in (("said", "warm"), ("steered", "warm"), ("part", "probe")):
        assert list(found.data[name]) == list(found.data[of])
        for split in found.data[of]:
            prompts = [one.messages for one in found.examples(DataRef(of, split))]
            assert [one.messages for one in found.examples(DataRef(name, split))] == prompts
    (said, steered, part) = found.completions
    assert said.condition is None and said.under == "baseline"
    assert steered.condition is not None and steered.condition.name == "warmer"
    assert part.of == (DataRef("probe", "test"),) and part.under == "dose[coefficient=0.5]"
    assert found.to_json()["completions"][2] == {
        "name": "part",
        "of": ["probe.test"],
        "condition": "dose[coefficient=0.5]",
        "max_new_tokens": 3,
    }
    assert "completions" not in plan().to_json()


def test_what_a_condition_needs_is_written_before(plan: Planner) -> None:
    """Whatever the order in the recipe."""
    text = SAID.replace("data:\n", "data:\n  late: {completions: {of: cold, condition: spoken, max_new_tokens: 2}}\n")
    text = text.replace("conditions:\n", "conditions:\n  spoken: [{add: {direction: talk}}]\n")
    assert [one.name for one in plan(text).completions] == ["said", "steered", "part", "late"]


def test_the_cost_of_writing_and_of_reading_is_known(plan: Planner) -> None:
    """Two parts of six and one of three prompts, each a batch; the parts of two that both need are paid for once."""
    cost = plan(SAID)
    assert dict(cost.cost.parts)["completions as data"] == 5 * 2 + 5 * 2 + 3
    assert "completions that are data count at full length" in cost.cost.basis
    again = SAID.replace(
        "  - refusal_score", "  - refusal_rate: {data: warm.test, max_new_tokens: 5}\n  - refusal_score"
    )
    other = SAID.replace(
        "  - refusal_score", "  - refusal_rate: {data: warm.test, max_new_tokens: 6}\n  - refusal_score"
    )
    shared, apart = dict(plan(again).cost.parts)["baseline"], dict(plan(other).cost.parts)["baseline"]
    assert apart - shared == 6, "the baseline's five tokens are there already"
    read = plan(SAID.replace("  - refusal_score", "  - cross_entropy: {data: said.test}\n  - refusal_score"))
    one = plan(SAID.replace("  - refusal_score", "  - cross_entropy: {data: probe.test}\n  - refusal_score"))
    assert read.cost.forward_passes == one.cost.forward_passes


def test_data_that_are_only_spoken_to_are_used(plan: Planner) -> None:
    text = RECIPE.replace(
        "directions:\n",
        "  asked: {inline: [a1, a2]}\n  said: {completions: {of: asked, max_new_tokens: 5}}\ndirections:\n",
    )
    notes = plan(text).notes
    assert "Data set 'said' is not used." in notes and "Data set 'asked' is not used." not in notes


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("{of: warn, max_new_tokens: 3}", "'warn' is not a data set. Did you mean 'warm'?"),
        ("{of: warm.tset, max_new_tokens: 3}", "'warm.tset' is not a part of the data. "),
        ("{of: other, max_new_tokens: 3}", "'other' holds completions itself: name the data set whose prompts"),
        ("{of: warm, condition: warmr, max_new_tokens: 3}", "unknown condition 'warmr'. Did you mean 'warmer'?"),
        (
            "{of: warm, condition: dose, max_new_tokens: 3}",
            "'dose' has a sweep; name one of its members: dose[coefficient=-8], dose[coefficient=0.5]",
        ),
        ("{of: warm, max_new_tokens: 0}", "expected a number of at least 1, not 0"),
        ("{of: warm}", "required: length of a completion in tokens, at most"),
        ("{of: talk, max_new_tokens: 3}", "1 of 1 example of talk has no answer to give"),
    ],
)
def test_what_can_not_be_completed_is_told_where_it_stands(problems: Problems, said: str, message: str) -> None:
    """Alone: what uses the data set is no further problem."""
    text = RECIPE.replace(
        "directions:\n",
        "  talk: {inline: [{turns: [{role: user, content: hi}, {role: assistant, content: ho}]}], messages: turns}\n"
        "  other: {completions: {of: probe, max_new_tokens: 3}}\n"
        f"  said: {{completions: {said}}}\n"
        "directions:\n",
    ).replace("  - refusal_score", "  - cross_entropy: {data: said.test}\n  - refusal_score")
    if "talk" in said:
        text = text.replace("said.test", "said")
    ((_, where, told),) = problems(text)
    assert message in told and where.startswith("data.said")


def test_a_key_that_says_how_rows_are_read_has_no_place_beside_completions(problems: Problems) -> None:
    text = RECIPE.replace(
        "directions:\n",
        "  said: {completions: {of: warm, max_new_tokens: 3}, label: tone, split: {test: 1}}\ndirections:\n",
    )
    ((_, where, told),) = problems(text)
    assert where == "data.said" and "remove label and split" in told
    text = RECIPE.replace(
        "directions:\n", "  said: {completions: {of: warm, max_new_tokens: 3}, inline: [x]}\ndirections:\n"
    )
    ((_, _, told),) = problems(text)
    assert told == "expected one of file, inline, hub, completions and of, not inline and completions"


def test_a_circle_is_told(problems: Problems) -> None:
    """The condition's direction is estimated from what is said under the condition, also by a detour."""
    text = SAID.replace("conditions:\n", "conditions:\n  spoken: [{add: {direction: talk}}]\n")
    ((_, where, told),) = problems(text.replace("condition: warmer", "condition: spoken"))
    assert where == "data.steered.completions.condition"
    assert "the condition of 'steered' uses a direction that is made from steered" in told
    detour = text.replace("condition: warmer", "condition: detour").replace(
        "conditions:\n", "conditions:\n  detour: [{add: {direction: round}}]\n"
    )
    detour = detour.replace(
        "directions:\n",
        "  more: {completions: {of: cold, condition: spoken, max_new_tokens: 2}}\n"
        "directions:\n"
        "  round: {estimator: mean_difference, positive: more.train, negative: cold.train, "
        "site: blocks.1.resid_pre}\n",
    )
    found = problems(detour)
    assert {where for _, where, _ in found} == {
        "data.steered.completions.condition",
        "data.more.completions.condition",
    }


def test_a_circle_goes_through_what_scores_are_compared_with(problems: Problems) -> None:
    """A search whose candidates are held against what is said under the condition that takes its direction."""
    text = SAID.replace("conditions:\n", "conditions:\n  spoken: [{add: {direction: chosen}}]\n")
    text = text.replace("condition: warmer", "condition: spoken") + (
        "search:\n"
        "  chosen:\n"
        "    over: warmth\n"
        "    scores: {alike: {activation_cosine: {data: warm.test, under: [add], like: steered.test, "
        "classes: [warm.train, cold.train]}}}\n"
        "    maximise: alike\n"
    )
    assert [where for _, where, _ in problems(text)] == ["data.steered.completions.condition"]


def test_completions_are_not_filtered_but_their_prompts_are(problems: Problems) -> None:
    text = SAID + "filter: {said: {refusal_score: {at_least: 0, tokens: [x]}}}\n"
    ((_, where, told),) = problems(text)
    assert (
        where == "filter.said.refusal_score"
        and told == "'said' holds what the model says to prompts of warm: filter those"
    )


def test_a_direction_from_completions_must_not_be_measured_on_their_prompts(problems: Problems) -> None:
    text = SAID.replace("positive: steered.train, negative: said.train", "positive: steered.test, negative: said.test")
    found = problems(text.replace("data: [probe.test, warm.test]", "data: warm.test"))
    assert any("directions are estimated from steered.test" in told or "said.test" in told for _, _, told in found)


def test_a_conversation_needs_a_template(problems: Problems) -> None:
    text = SAID.replace('{source: "tiny-random:llama"}', '{source: "tiny-random:llama", chat_template: none}')
    text = text.replace("part: {completions: {of: probe.test", "part: {completions: {of: talks")
    text = text.replace(
        "  part:",
        "  talks: {inline: [{turns: [{role: system, content: s}, {role: user, content: u}]}], messages: turns}\n"
        "  part:",
    )
    ((_, where, told),) = problems(text)
    assert where == "data.part.completions.of" and "model.chat_template is none" in told
