"""When an intervention acts, as recipes write it: positions behind a token, schedules, gates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.errors import RecipeError
from steerkit.recipe import Draft, load_recipe, recipe_from_mapping
from steerkit.types import Schedule

HEAD = """\
name: when
model: {source: "tiny-random:llama"}
directions:
  harm: {file: harm.safetensors}
conditions:
  late:
"""


def load(folder: Path, *lines: str) -> Draft:
    path = folder / "r.yaml"
    path.write_text(HEAD + "".join(f"    {line}\n" for line in lines), "utf-8")
    return load_recipe(path)


def problems(folder: Path, *lines: str) -> list[tuple[int | None, str, str]]:
    with pytest.raises(RecipeError) as caught:
        load(folder, *lines)
    return [(item.line, item.where, item.message) for item in caught.value.problems]


def test_every_form_is_read(tmp_path: Path) -> None:
    recipe = load(
        tmp_path,
        "- add:",
        "    direction: harm",
        "    positions: from_token(</think>)",
        "    schedule: linear(1, 0, 64)",
        "    gate: {direction: harm, above: 3, site: blocks.4.resid_pre, at: prompt, positions: last, prepass: true}",
        "- add: {direction: harm, schedule: exponential(0.97), gate: {direction: harm, below: -0.5}}",
        "- add: {direction: harm, schedule: [1, 0.5, 0.25], positions: from_token(#7)}",
        "- add: {direction: harm, schedule: null, gate: null}",
    )
    first, second, third, last = recipe.recipe.conditions["late"].interventions
    assert (first.positions, first.schedule, first.options) == ("from_token(</think>)", "linear(1, 0, 64)", {})
    assert first.gate is not None
    assert first.gate.model_dump() == {
        "direction": "harm",
        "above": 3.0,
        "below": None,
        "site": "blocks.4.resid_pre",
        "at": "prompt",
        "positions": "prompt[-1]",
        "prepass": True,
    }
    assert second.gate is not None and second.schedule == "exponential(0.97)"
    assert (second.gate.below, second.gate.at, second.gate.site, second.gate.prepass) == (-0.5, "token", None, False)
    assert (third.positions, third.schedule, third.gate) == ("from_token(#7)", (1.0, 0.5, 0.25), None)
    assert (last.schedule, last.gate) == (None, None)
    again = tmp_path / "again.yaml"
    again.write_text(recipe.to_yaml(), "utf-8")
    assert load_recipe(again).recipe.conditions == recipe.recipe.conditions
    assert recipe_from_mapping(recipe.resolved()).resolved() == recipe.resolved()


def test_what_is_not_set_leaves_no_key(tmp_path: Path) -> None:
    recipe = load(tmp_path, "- add: {direction: harm, schedule: null, gate: null}")
    ((entry,),) = (item["interventions"] for item in recipe.resolved()["conditions"].values())
    assert entry == {"add": {"direction": "harm", "sites": None, "positions": "all"}}


@pytest.mark.parametrize(
    ("body", "where", "part"),
    [
        ("schedule: 5", "schedule", "expected a schedule: linear(1, 0, 64), exponential(0.97), or a list"),
        ("schedule: {linear: 1}", "schedule", "expected a schedule: linear(1, 0, 64)"),
        ("schedule: exponental(0.9)", "schedule", "Did you mean 'exponential'?"),
        ("schedule: exponential(2)", "schedule", "a rate between 0 and 1"),
        ('schedule: "linear(1, 0)"', "schedule", "takes 3 finite numbers"),
        ("schedule: [1, x]", "schedule", "a list of factors holds numbers only"),
        ("schedule: []", "schedule", "finite numbers"),
        ("positions: from_token()", "positions", "from_token(</think>)"),
        ("gate: 5", "gate", "expected a mapping (key: value), not 5"),
        ("gate: harm", "gate", 'expected a mapping (key: value), not "harm"'),
        ("gate: {above: 3}", "gate.direction", "required: name of the direction"),
        ("gate: {direction: harm}", "gate", "expected a number as above or as below"),
        ("gate: {direction: harm, above: 1, below: 2}", "gate", "expected one of above and below, not both"),
        ("gate: {direction: harm, abov: 1}", "gate.abov", "Did you mean 'above'?"),
        ("gate: {directon: harm, above: 1}", "gate.directon", "Did you mean 'direction'?"),
        ("gate: {direction: harm, above: x}", "gate.above", 'expected a number, not "x"'),
        ("gate: {direction: harm, above: true}", "gate.above", "expected a number, not true"),
        ("gate: {direction: harm, above: .inf}", "gate.above", ".inf is not a finite number"),
        ("gate: {direction: 5, above: 1}", "gate.direction", "expected text, not 5"),
        (
            "gate: {direction: harm, above: 1, at: promt}",
            "gate.at",
            "expected 'token' or 'prompt', not \"promt\"; did you mean 'prompt'?",
        ),
        ("gate: {direction: harm, above: 1, site: blocks.1.resid_pree}", "gate.site", "Did you mean 'resid_pre'"),
        ("gate: {direction: harm, above: 1, at: prompt, positions: lst}", "gate.positions", "Did you mean 'last'?"),
        ("gate: {direction: harm, above: 1, prepass: 1}", "gate.prepass", "expected true or false, not 1"),
        ("gate: {direction: harm, above: 1, prepass: true}", "gate", "prepass can be given only with at: prompt"),
        (
            "gate: {direction: harm, above: 1, at: token, positions: last, prepass: true}",
            "gate",
            "positions and prepass can be given only with at: prompt",
        ),
    ],
)
def test_one_mistake_is_one_problem_with_its_line(tmp_path: Path, body: str, where: str, part: str) -> None:
    ((line, found, message),) = problems(tmp_path, f"- add: {{direction: harm, {body}}}")
    assert (line, found) == (7, f"conditions.late.0.add.{where}")
    assert part in message


@pytest.mark.parametrize(
    "body",
    [
        # What a gate needs is not missed where a key of it is misspelt, nor is what stands beside found wrong for that.
        "{direction: harm, abve: 1, att: prompt, prepass: true}",
        "{direction: harm, above: 1, below: 2, at: x, prepass: true}",
        "{direction: [harm], above: 1, at: 5, positions: last}",
    ],
)
def test_mistakes_in_a_gate_have_no_consequences(tmp_path: Path, body: str) -> None:
    found = problems(tmp_path, f"- add: {{direction: harm, gate: {body}}}")
    assert len(found) == 2, found


def test_lines_are_those_of_the_keys(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        "- add:",
        "    direction: harm",
        "    schedule: linear(1)",
        "    gate:",
        "      direction: harm",
        "      above: x",
        "      prepas: true",
    )
    assert [item[:2] for item in found] == [
        (9, "conditions.late.0.add.schedule"),
        (12, "conditions.late.0.add.gate.above"),
        (13, "conditions.late.0.add.gate.prepas"),
    ]


@pytest.mark.parametrize(
    ("body", "where", "advice"),
    [
        ("schedule: linear(1, 0, 64), coefficient: 2", "schedule", 'schedule: "linear(1, 0, 64)"'),
        ("schedule: linear(1, 0, 64)", "schedule", 'schedule: "linear(1, 0, 64)"'),
        ("positions: from_token(well, then), coefficient: 2", "positions", 'positions: "from_token(well, then)"'),
    ],
)
def test_a_text_that_braces_cut_is_told_as_one(tmp_path: Path, body: str, where: str, advice: str) -> None:
    ((_, found, message),) = problems(tmp_path, f"- add: {{direction: harm, {body}}}")
    assert found == f"conditions.late.0.add.{where}"
    assert message == f"braces cut this text at its commas; put it in quotes: {advice}"


def test_a_text_that_only_looks_cut_is_told_as_what_it_is(tmp_path: Path) -> None:
    ((_, where, message),) = problems(tmp_path, "- add: {direction: harm, schedule: linear(1, coefficient: 2, other: }")
    assert where == "conditions.late.0.add.schedule"
    assert "'linear(1' is not a schedule. Write 'linear(1, 0, 64)'" in message


NUMBERS = st.floats(-1e6, 1e6)


@given(
    st.one_of(
        st.tuples(NUMBERS, NUMBERS, st.integers(1, 10**6)).map(lambda it: f"linear({it[0]!r}, {it[1]!r}, {it[2]})"),
        st.floats(0, 1, exclude_min=True).map(lambda rate: f"exponential({rate!r})"),
        st.lists(NUMBERS | st.integers(-9, 9), min_size=1, max_size=5),
        st.just("constant"),
    )
)
def test_no_digit_of_a_schedule_is_lost(written: Any) -> None:
    value = {
        "name": "n",
        "model": {"source": "m"},
        "conditions": {"c": [{"add": {"schedule": written}}]},
    }
    recipe = recipe_from_mapping(value)
    again = recipe_from_mapping(recipe.resolved())
    assert again == recipe
    (item,) = again.recipe.conditions["c"].interventions
    assert Schedule.parse(item.schedule) == Schedule.parse(written)
