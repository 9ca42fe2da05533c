"""Texts that lack what a monitor reads: told by the plan, with the monitor and the data."""

from __future__ import annotations

import pytest

from tests.plan.conftest import RECIPE, Planner

TALKS = """\
  talks:
    inline:
      - {turns: [{role: user, content: hi}, {role: assistant, content: ho}], tone: kind}
      - {turns: [{role: user, content: he}, {role: assistant, content: ha}], tone: rude}
    messages: turns
    label: tone
"""


def recipe(positions: str, *, of: str = "talks", more: str = "") -> str:
    monitor = f"monitors:\n  harm: {{direction: warmth, above: 3.0, positions: '{positions}'}}\n"
    auroc = f"evaluate:\n  - monitor_auroc: {{data: {of}, monitor: harm, positive: kind{more}}}\n"
    return RECIPE.replace("data:\n", f"data:\n{TALKS}", 1).replace("evaluate:\n", auroc) + monitor


def unread(plan: Planner, text: str) -> list[str]:
    found = plan(text)
    assert set(found.unread) <= set(found.notes)
    return [note for note in found.unread if "Monitor 'harm'" in note]


def test_a_turn_that_samples_lack_is_told(plan: Planner) -> None:
    (note,) = unread(plan, recipe("assistant[-1]"))
    assert note == (
        "Monitor 'harm' reads 'assistant[-1]', and 2 of 2 examples of probe.test have no such turn of the assistant's, "
        "the first one 'p1': it has no reading on these."
    ), "those that a reader is shown, and not the talks, which have the turn"


def test_a_turn_that_scored_data_lack_is_told_of_all_of_them(plan: Planner) -> None:
    (note,) = unread(plan, recipe("assistant[-1]", of="probe.test"))
    assert "3 of 3 examples of probe.test" in note


def test_tokens_behind_prompts_that_are_read_alone_are_told(plan: Planner) -> None:
    (note,) = unread(plan, recipe("completion"))
    assert note.startswith("Monitor 'harm' reads 'completion', tokens behind a prompt, and monitor_auroc has prompts")
    assert "no reading on talks" in note
    open_ones = recipe("completion", of="probe.test", more=", max_new_tokens: 4")
    assert unread(plan, open_ones) == [], "completions have these tokens"


@pytest.mark.parametrize("positions", ["all", "user[-1]", "user[-1][-1]"])
def test_what_is_there_is_not_told(plan: Planner, positions: str) -> None:
    assert unread(plan, recipe(positions)) == []
