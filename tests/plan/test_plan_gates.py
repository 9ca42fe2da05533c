"""Schedules, gates and positions behind a token: from a recipe to a plan, and from there to interventions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from steerkit.api.direction import Direction
from steerkit.artifacts.directions import save_directions
from steerkit.catalog import Catalog
from steerkit.errors import AttachError, RecipeError
from steerkit.plan import Plan, PlannedGate, plan_recipe
from steerkit.plan.conditions import _forward_order
from steerkit.types import Positions, Schedule, Site
from tests.plan.conftest import Planner, Problems

if TYPE_CHECKING:
    from steerkit.session.model import LiveModel

RECIPE = """\
name: gates
model: {source: "tiny-random:llama"}
data:
  warm: {inline: [w1, w2, w3, w4, w5, w6], split: {train: 4, test: 2}}
  cold: {inline: [c1, c2, c3, c4, c5, c6], split: {train: 4, test: 2}}
directions:
  warmth: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}
  harm: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.0.resid_mid}
conditions:
  late:
    - INTERVENTION
evaluate:
  - refusal_rate: {data: warm.test, max_new_tokens: 5}
report: {samples: {data: cold.test, n: 2, max_new_tokens: 3}}
control: {random_directions: 2}
"""
PLAIN = "add: {direction: warmth}"
FULL = (
    "add: {direction: warmth, positions: from_token(</think>), schedule: [1, 0.5], "
    "gate: {direction: harm, below: 3, at: prompt, positions: instruction, prepass: true}}"
)


@pytest.fixture
def plan(tmp_path: Path, catalog: Catalog) -> Planner:
    def make(intervention: str = FULL, *overrides: str) -> Plan:
        path = tmp_path / "gates.yaml"
        path.write_text(RECIPE.replace("INTERVENTION", intervention), "utf-8")
        return plan_recipe(path, overrides, catalog)

    return make


@pytest.fixture
def problems(plan: Planner) -> Problems:
    def find(intervention: str, *overrides: str) -> list[tuple[int | None, str, str]]:
        with pytest.raises(RecipeError) as caught:
            plan(intervention, *overrides)
        return [(item.line, item.where, item.message) for item in caught.value.problems]

    return find


def test_the_words_reach_the_plan(plan: Planner) -> None:
    ((item,),) = (condition.interventions for condition in plan().conditions)
    assert item.positions == Positions("from_token", after="</think>")
    assert item.schedule == Schedule("list", (1, 0.5))
    # Without a site of its own a gate is read where its direction was estimated.
    expected = PlannedGate("harm", 3.0, "below", Site("resid_mid", 0), "prompt", Positions("instruction"), True)
    assert item.gate == expected
    ((item,),) = (condition.interventions for condition in plan(PLAIN).conditions)
    assert (item.schedule, item.gate) == (Schedule(), None)


def test_the_words_reach_the_plans_json_only_where_they_are_set(plan: Planner) -> None:
    def listed(found: Plan) -> dict[str, Any]:
        entry: dict[str, Any] = json.loads(json.dumps(found.to_json()))["conditions"][0]["interventions"][0]
        return entry

    entry = listed(plan())
    assert entry["positions"] == "from_token(</think>)"
    assert entry["schedule"] == "[1, 0.5]"
    assert entry["gate"] == {
        "direction": "harm",
        "below": 3.0,
        "site": "blocks.0.resid_mid",
        "at": "prompt",
        "positions": "instruction",
        "prepass": True,
    }
    token = plan("add: {direction: warmth, gate: {direction: harm, above: 0, site: embed}}")
    assert listed(token)["gate"] == {"direction": "harm", "above": 0.0, "site": "embed", "at": "token"}
    assert listed(plan(PLAIN)).keys() == {"name", "direction", "options", "sites", "positions"}


def test_the_hash_follows_every_word(plan: Planner) -> None:
    words = [
        FULL,
        FULL.replace("[1, 0.5]", "[1, 0.6]"),
        FULL.replace("[1, 0.5]", "exponential(0.5)"),
        FULL.replace("</think>", "</thinks>"),
        FULL.replace("below: 3", "above: 3"),
        FULL.replace("below: 3", "below: 3.5"),
        FULL.replace("positions: instruction", "positions: prompt"),
        FULL.replace(", prepass: true", ""),
        FULL.replace("direction: harm", "direction: warmth"),
        FULL.replace("below: 3", "below: 3, site: embed"),
        PLAIN,
    ]
    assert len({plan(one).hash for one in words}) == len(words)
    assert plan("add: {direction: warmth, schedule: null, gate: null}").hash == plan(PLAIN).hash


def test_a_resolved_recipe_is_the_same_plan(plan: Planner, tmp_path: Path, catalog: Catalog) -> None:
    first = plan()
    again = tmp_path / "again.yaml"
    again.write_text(first.report.recipe, "utf-8")
    second = plan_recipe(again, (), catalog)
    assert second.hash == first.hash
    assert second.conditions == first.conditions


def test_a_gates_direction_counts_as_used(plan: Planner) -> None:
    assert plan().notes == ()
    assert plan(PLAIN).notes == ("Direction 'harm' is not used by any condition.",)


GATE = "add: {direction: warmth, gate: {direction: harm, above: 1}}"


@pytest.mark.parametrize(
    ("intervention", "where", "part"),
    [
        (GATE.replace("harm", "ham"), "gate.direction", "unknown direction 'ham'. Did you mean 'harm'?"),
        (GATE.replace("gate:", "gat:"), "gat", "Did you mean 'gate'?"),
        (GATE.replace("gate:", "schedul: 1, gate:"), "schedul", "Did you mean 'schedule'?"),
        (GATE.replace("1}", "1, at: prompt, positions: generated}"), "gate.positions", "tokens of the prompt"),
        (GATE.replace("1}", "1, at: prompt, positions: from_token(x)}"), "gate.positions", "not from_token(x)"),
        (
            GATE.replace("gate", "sites: [blocks.1.mlp_out, embed], gate"),
            "gate",
            "read at blocks.0.resid_mid, behind embed, where it should decide already: read it at embed or before",
        ),
        (
            GATE.replace("gate", "sites: blocks.1.attn_out, gate").replace("1}", "1, site: blocks.1.mlp_out}"),
            "gate.site",
            "read at blocks.1.mlp_out, behind blocks.1.attn_out",
        ),
        (
            GATE.replace("gate", "sites: blocks.1.attn_out, gate").replace(
                "1}", "1, site: blocks.2.resid_pre, at: prompt}"
            ),
            "gate.site",
            "or decide in advance with at: prompt and prepass: true",
        ),
    ],
)
def test_what_cannot_work_is_told_before_the_model_is_loaded(
    problems: Problems, intervention: str, where: str, part: str
) -> None:
    ((line, found, message),) = problems(intervention)
    assert (line, found) == (11, f"conditions.late.0.add.{where}")
    assert part in message


@pytest.mark.parametrize("positions", ["prompt", "last", "instruction", "'post_instruction[:2]'", -1, [0, 3], "0:4"])
def test_the_prompt_decides_on_generated_tokens_unless_in_advance(
    plan: Planner, problems: Problems, positions: object
) -> None:
    gated = GATE.replace("gate", f"positions: {positions}, gate")
    plan(gated)
    ((line, where, message),) = problems(gated.replace("1}", "1, at: prompt}"))
    assert (line, where) == (11, "conditions.late.0.add.gate.at")
    assert "are all in the prompt: add prepass: true" in message
    plan(gated.replace("1}", "1, at: prompt, prepass: true}"))


@pytest.mark.parametrize("positions", ["all", "generated", "generated[:8]", "from_token(x)"])
def test_positions_that_reach_generated_tokens_need_no_pass_in_advance(plan: Planner, positions: str) -> None:
    plan(GATE.replace("gate", f"positions: {json.dumps(positions)}, gate").replace("1}", "1, at: prompt}"))


@pytest.mark.parametrize(
    "gate",
    [
        "site: blocks.0.resid_mid",  # where the first edit is: the stream is read as it arrives there
        "site: blocks.0.attn_out",
        "site: embed",
        "site: blocks.2.resid_post, at: prompt, prepass: true",
    ],
)
def test_a_gate_may_be_read_at_the_first_edit_or_anywhere_in_advance(plan: Planner, gate: str) -> None:
    sites = "sites: [blocks.0.mlp_out, blocks.0.resid_mid]"
    plan(GATE.replace("gate", f"{sites}, gate").replace("1}", f"1, {gate}}}"))


@pytest.mark.parametrize(
    ("sites", "gate", "wheres"),
    [
        # Without what is broken, each of these would be read too late, or would edit nothing.
        ("sites: embed, positions: prompt", "above: 1, at: prompt, prepass: yes", ["prepass"]),
        ("sites: embed, positions: prompt", "above: 1, at: prompt, prepas: true", ["prepas"]),
        ("sites: embed, positions: prompt", "above: 1, at: promt, prepass: true", ["at"]),
        ("sites: embed", "above: 1, site: blocks.1.resid_pree", ["site"]),
        # What stands beside is told.
        ("sites: embed", "above: x", ["", "above"]),
        ("positions: prompt", "below: 1, above: 2, at: prompt", ["", "at"]),
    ],
)
def test_what_follows_from_a_mistake_in_a_gate_is_no_further_problem(
    problems: Problems, sites: str, gate: str, wheres: list[str]
) -> None:
    found = problems(GATE.replace("gate", f"{sites}, gate").replace("above: 1", gate))
    assert [item[1] for item in found] == [f"conditions.late.0.add.gate.{where}".rstrip(".") for where in wheres]


def test_a_mistake_in_a_gate_hides_no_other(problems: Problems) -> None:
    found = problems(GATE.replace("harm", "ham").replace("1}", "1, prepass: true}"))
    assert [item[1] for item in found] == ["conditions.late.0.add.gate", "conditions.late.0.add.gate.direction"]


def test_broken_sites_are_not_taken_for_early_ones(problems: Problems) -> None:
    found = problems(GATE.replace("gate", "sites: [blocks.1.mlp_out, blocks.1.resid_pree], gate"))
    assert [item[1] for item in found] == ["conditions.late.0.add.sites.1"]


def test_a_site_that_the_model_lacks_is_one_problem(problems: Problems, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 2}', "utf-8")
    text = GATE.replace("gate", "sites: embed, gate").replace("1}", "1, site: blocks.2.resid_pre}")
    ((_, where, message),) = problems(text, f"model.source={tmp_path / 'model'}")
    assert where == "conditions.late.0.add.gate.site"
    assert message == "no site blocks.2.resid_pre: the model has 2 layers, 0 to 1"


def test_where_a_direction_from_a_file_was_estimated_is_not_known(plan: Planner, tmp_path: Path) -> None:
    held = Direction(torch.ones(1, 32), Site.parse("blocks.1.resid_pre"), name="harm")
    save_directions(tmp_path / "harm.safetensors", [held])
    text = GATE.replace("gate", "sites: embed, gate")
    ((item,),) = (one.interventions for one in plan(text, "directions.harm={file: harm.safetensors}").conditions)
    assert item.gate is not None and item.gate.site is None


def test_directions_are_read_behind_a_token_and_not_at_generated_ones(plan: Planner, problems: Problems) -> None:
    found = plan(PLAIN, "directions.harm.positions=from_token(x)")
    assert Positions("from_token", after="x") in [item.positions for item in found.directions]
    ((line, where, message),) = problems(PLAIN, "directions.harm.positions=generated")
    assert (line, where) == (None, "--set directions.harm.positions")
    assert message.startswith("prompts have no generated tokens") and "write completion" in message


def test_a_sweep_tells_a_gates_problem_once(problems: Problems) -> None:
    override = "conditions.late={interventions: [{GATE}], sweep: {coefficient: [1, 2]}}".replace(
        "GATE", GATE.replace("harm", "ham")
    )
    ((_, where, _),) = problems(PLAIN, override)
    assert where.endswith("conditions.late.interventions.0.add.gate.direction")


def test_the_order_of_sites_is_that_of_a_forward_pass(llama: LiveModel) -> None:
    sites = llama.layout.sites()
    assert len(sites) > 12
    assert all(_forward_order(one) < _forward_order(other) for one, other in pairwise(sites))
    assert _forward_order(Site("mlp_out", 1)) < _forward_order(Site("per_layer_out", 1))
    assert _forward_order(Site("per_layer_out", 1)) < _forward_order(Site("resid_post", 1))


# What is built.


def directions() -> dict[str, Any]:
    import torch

    from steerkit.api.direction import Direction

    return {
        "warmth": Direction(torch.tensor([1.0, 2.0, 2.0]), Site("resid_pre", 1), name="warmth"),
        "harm": Direction(torch.tensor([0.0, 3.0, 4.0]), Site("resid_mid", 0), name="harm"),
    }


def test_interventions_are_built_with_schedule_and_gate_and_controls_keep_the_gate(plan: Planner) -> None:
    from steerkit.stages import conditions

    found = directions()
    baseline, late, *controls = conditions(plan(), found)
    assert baseline.placements == ()
    (built,) = late.placements
    assert (built.positions, built.schedule) == (Positions("from_token", after="</think>"), Schedule.parse([1, 0.5]))
    assert built.gate is not None and built.gate.direction is found["harm"]
    assert (built.gate.threshold, built.gate.side, built.gate.at, built.gate.prepass) == (3.0, "below", "prompt", True)
    assert (built.gate.site, built.gate.positions) == (Site("resid_mid", 0), Positions("instruction"))
    assert len(controls) == 2
    for control in controls:
        (other,) = control.placements
        assert other.direction.name.startswith("warmth/random-")
        assert not other.direction.vectors.equal(built.direction.vectors)
        assert other.gate is not None and other.gate.direction is found["harm"]
        assert other.gate.site == built.gate.site and other.schedule == built.schedule
    (plain,) = conditions(plan(PLAIN), found)[1].placements
    assert (plain.schedule, plain.gate, plain.factor) == (Schedule(), None, None)


def test_a_gate_along_the_interventions_own_direction_keeps_it_in_controls(plan: Planner) -> None:
    from steerkit.stages import conditions

    found = directions()
    _, _, control, _ = conditions(plan(GATE.replace("harm", "warmth")), found)
    (built,) = control.placements
    assert built.gate is not None and built.gate.direction is found["warmth"]
    assert built.direction is not found["warmth"]


def test_a_direction_that_decides_nothing_names_its_condition(plan: Planner) -> None:
    import torch

    from steerkit.stages import conditions

    found = directions()
    found["harm"] = found["harm"].with_vectors(torch.ones(2, 3))
    with pytest.raises(AttachError, match="Condition late: A gate needs one finite vector"):
        conditions(plan(), found)


def test_results_say_schedule_and_gate_only_where_they_are_set(plan: Planner, llama: LiveModel) -> None:
    from steerkit.stages import conditions, describe_condition

    found = plan()
    # As where the direction comes from a file: the plan doesn't know its site, and the results do.
    ((item,),) = (one.interventions for one in found.conditions)
    assert item.gate is not None
    unknown = replace(item, gate=replace(item.gate, site=None))
    found = replace(found, conditions=(replace(found.conditions[0], interventions=(unknown,)),))
    (entry,) = describe_condition(conditions(found, directions())[1], llama).model_dump()["interventions"]
    assert entry["schedule"] == "[1, 0.5]"
    assert entry["gate"] == {
        "direction": "harm",
        "below": 3.0,
        "site": "blocks.0.resid_mid",
        "at": "prompt",
        "positions": "instruction",
        "prepass": True,
    }
    (entry,) = describe_condition(conditions(plan(PLAIN), directions())[1], llama).model_dump()["interventions"]
    assert entry.keys() == {"name", "direction", "options", "sites", "positions"}


# Without torch.

PROBE = """
import sys
from steerkit.cli.main import main
from tests.plan.conftest import Planner, Problems
try:
    main(["check", "gates.yaml", "--json"])
finally:
    print(sorted({"torch", "transformers", "numpy"} & set(sys.modules)), file=sys.stderr)
"""


def test_checking_a_gate_imports_no_torch(tmp_path: Path) -> None:
    (tmp_path / "gates.yaml").write_text(RECIPE.replace("INTERVENTION", FULL), "utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "error", "-c", PROBE]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert json.loads(done.stdout)["conditions"][0]["interventions"][0]["gate"]["direction"] == "harm"
