"""What is read as plain text has no turns: interventions that name some are told before a run, where they stand."""

from __future__ import annotations

import pytest

from tests.plan.conftest import RECIPE, Planner, Problems

TEXT = RECIPE.replace("data:\n", 'data:\n  words: {inline: ["Some words.", "Others."]}\n', 1).replace(
    "evaluate:\n", "evaluate:\n  - cross_entropy: {data: words}\n"
)


def steered(positions: str) -> str:
    return TEXT.replace("coefficient: 4.0}", f"coefficient: 4.0, positions: '{positions}'}}")


@pytest.mark.parametrize("positions", ["user[-1]", "instruction", "post_instruction[-1]"])
def test_a_turn_of_a_plain_text_is_told_at_the_intervention(problems: Problems, positions: str) -> None:
    ((line, where, message),) = problems(steered(positions))
    assert where == "conditions.warmer.0.add.positions"
    assert (
        line
        == steered(positions).splitlines().index(next(x for x in steered(positions).splitlines() if "4.0" in x)) + 1
    )
    assert message.startswith(
        f"'{positions}': cross_entropy reads the texts of words as they are, without the chat template"
    )


def test_a_gate_that_reads_a_turn_is_told_at_the_gate(problems: Problems) -> None:
    gate = "gate: {direction: warmth, above: 0, at: prompt, positions: instruction}"
    ((_, where, _),) = problems(TEXT.replace("coefficient: 4.0}", f"coefficient: 4.0, {gate}}}"))
    assert where == "conditions.warmer.0.add.gate.positions"


@pytest.mark.parametrize("positions", ["all", "last", "generated", "-1", "prompt[2:]"])
def test_positions_that_every_text_has_are_not(plan: Planner, positions: str) -> None:
    assert plan(steered(positions)).conditions[0].name == "warmer"


def test_baseline_completions_of_plain_prompts_have_their_turns(plan: Planner) -> None:
    text = steered("user[-1]").replace("{data: words}", "{data: words, of: baseline_completions}")
    assert plan(text).conditions[0].name == "warmer"
