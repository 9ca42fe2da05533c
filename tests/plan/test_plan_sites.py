"""Directions at several sites, conditions with a system prompt or a mode, options of any name: planned and refused."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml

from steerkit.catalog import Catalog
from steerkit.plan import Plan, plan_recipe
from steerkit.recipe import recipe_from_mapping
from steerkit.types import Site, SitePattern
from tests.plan.conftest import RECIPE, Planner, Problems

PATTERN = RECIPE.replace("site: blocks.1.resid_pre", "site: 'blocks.*.resid_post'").replace(
    "ablate: {direction: warmth,", "ablate: {direction: warmth, at: blocks.1.resid_post,"
)
PROMPTED = RECIPE.replace(
    "  dose:",
    """\
  asked: {system_prompt: Be warm.}
  both: {system_prompt: Be warm., mode: fold, interventions: [{add: {direction: warmth}}]}
  dose:""",
)


def resolved(plan: Plan) -> dict[str, Any]:
    """A plan's recipe as a run writes it down."""
    found: dict[str, Any] = yaml.safe_load(plan.report.recipe)
    return found


@pytest.fixture
def three_layers(tmp_path: Path) -> str:
    """An override that names a model whose config tells the number of its layers."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 3}', "utf-8")
    return f"model.source={folder}"


def test_a_pattern_is_planned_as_such(plan: Planner) -> None:
    found = plan(PATTERN)
    assert found.directions[0].site == SitePattern("resid_post")
    assert found.to_json()["directions"][0]["site"] == "blocks.*.resid_post"
    assert recipe_from_mapping(resolved(found)).recipe.directions == found.recipe.directions
    one = plan(RECIPE)
    assert one.directions[0].site == Site("resid_pre", 1)


def test_what_uses_one_site_of_a_pattern_says_which(problems: Problems, three_layers: str) -> None:
    unsaid = PATTERN.replace(" at: blocks.1.resid_post,", "")
    ((_, _, message),) = problems(unsaid, "model.source=somebody/unknown")
    assert message.endswith("there are vectors at blocks.*.resid_post; say whose vectors are meant, at: <site>")
    ((line, where, message),) = problems(unsaid, three_layers)
    assert (line, where) == (17, "conditions.alone.interventions.0.ablate")
    assert "there are vectors at blocks.0.resid_post to blocks.2.resid_post (3 sites)" in message
    assert message.endswith("say whose vectors are meant, at: blocks.1.resid_post")
    ((_, where, message),) = problems(PATTERN.replace("at: blocks.1.resid_post", "at: embed"), three_layers)
    assert where.endswith("ablate.at") and "has no vectors at embed" in message
    ((_, where, message),) = problems(PATTERN.replace("blocks.*.resid_post", "blocks.1-9.resid_post"), three_layers)
    assert where == "directions.warmth.site" and "the model has 3 layers" in message
    ((_, where, message),) = problems(PATTERN.replace("blocks.*.resid_post", "blocks.*.resid_pots"))
    assert where == "directions.warmth.site" and "Did you mean 'resid_post'" in message


def test_a_gate_on_a_pattern_says_which(plan: Planner, problems: Problems, three_layers: str) -> None:
    gated = PATTERN.replace("coefficient: 4.0}", "coefficient: 4.0, gate: {direction: warmth, above: 1}}")
    ((_, where, message),) = problems(gated)
    assert where == "conditions.warmer.0.add.gate" and "add site: <site>" in message
    ((_, where, message),) = problems(gated.replace("above: 1}", "above: 1, site: embed}"), three_layers)
    assert where == "conditions.warmer.0.add.gate.site" and "has no vector at embed" in message
    item = plan(gated.replace("above: 1}", "above: 1, site: blocks.0.resid_post}")).conditions[0].interventions[0]
    assert item.gate is not None and item.gate.site == Site("resid_post", 0)


def test_interventions_may_be_placed_by_patterns(plan: Planner, problems: Problems, three_layers: str) -> None:
    found = plan(RECIPE.replace("coefficient: 4.0", "coefficient: 4.0, sites: 'blocks.0-1.mlp_out'"))
    assert found.conditions[0].interventions[0].sites == (SitePattern("mlp_out", (0, 1)),)
    beyond = RECIPE.replace("coefficient: 4.0", "coefficient: 4.0, sites: 'blocks.0-3.mlp_out'")
    ((_, where, _),) = problems(beyond, three_layers)
    assert where == "conditions.warmer.0.add.sites"


# Saved directions


def saved(path: Path, **changes: object) -> None:
    import json

    import torch
    from safetensors.torch import save

    entry = {"name": "warmth", "sites": ["blocks.1.resid_pre"], "positions": "last", "provenance": {}, **changes}
    sites = entry["sites"] or [None]
    assert isinstance(sites, list)
    names = ["warmth.vectors" if len(sites) < 2 else f"warmth.vectors@{site}" for site in sites]
    header = json.dumps({"schema_version": 2, "directions": [entry]})
    path.write_bytes(save({name: torch.ones(1, 32) for name in names}, metadata={"steerkit.directions": header}))


def filed(more: str = "") -> str:
    head, _, tail = RECIPE.partition("directions:\n")
    return f"{head}directions:\n  warmth: {{file: w.safetensors{more}}}\n{tail[tail.index('conditions:') :]}"


def test_a_file_is_given_the_site_that_it_lacks(tmp_path: Path, plan: Planner, problems: Problems) -> None:
    from steerkit.stages import saved_direction

    path = tmp_path / "w.safetensors"
    saved(path, sites=None, positions=None)
    ((_, where, message),) = problems(filed())
    assert where == "directions.warmth.file" and "Give it as site" in message
    found = plan(filed(", site: blocks.0.resid_post, positions: instruction"))
    (planned,) = found.directions
    assert (planned.site, str(planned.positions)) == (Site("resid_post", 0), "instruction")
    assert found.to_json()["directions"][0]["site"] == "blocks.0.resid_post"
    direction = saved_direction(planned)
    assert (direction.site, str(direction.positions)) == (Site("resid_post", 0), "instruction")
    assert resolved(found)["directions"]["warmth"] == {
        "file": str(path),
        "site": "blocks.0.resid_post",
        "positions": "instruction",
    }


def test_a_file_that_says_its_site_is_not_overruled(tmp_path: Path, plan: Planner, problems: Problems) -> None:
    saved(tmp_path / "w.safetensors")
    assert resolved(plan(filed()))["directions"]["warmth"].keys() == {"file"}
    plan(filed(", site: blocks.1.resid_pre"))
    ((_, where, message),) = problems(filed(", site: embed"))
    assert where == "directions.warmth.file" and "was estimated at blocks.1.resid_pre, not at embed" in message
    plan(filed(", positions: '-1'"))  # the same token of a prompt
    ((_, _, message),) = problems(filed(", positions: instruction"))
    assert "at positions 'prompt[-1]', not 'instruction'" in message


def test_a_file_with_several_sites_is_told_of_by_check(tmp_path: Path, problems: Problems) -> None:
    saved(tmp_path / "w.safetensors", sites=["blocks.0.resid_pre", "blocks.1.resid_pre"])
    ((_, where, message),) = problems(filed())
    assert where == "conditions.alone.interventions.0.ablate" and "(2 sites); say whose" in message


# Conditions


def test_conditions_have_prompts_and_modes(plan: Planner) -> None:
    found = plan(PROMPTED)
    asked, both = found.conditions[1:3]
    assert (asked.system_prompt, asked.mode, asked.interventions, asked.n_controls(5)) == ("Be warm.", "auto", (), 0)
    assert (both.system_prompt, both.mode, both.n_controls(5)) == ("Be warm.", "fold", 5)
    listed = {item["name"]: item for item in found.to_json()["conditions"]}
    assert listed["asked"]["system_prompt"] == "Be warm." and listed["both"]["mode"] == "fold"
    assert not {"system_prompt", "mode"} & listed["warmer"].keys()
    assert recipe_from_mapping(resolved(found)).recipe == found.recipe
    written = resolved(found)["conditions"]
    assert not {"system_prompt", "mode"} & written["warmer"].keys()


def test_a_system_prompt_is_counted(plan: Planner) -> None:
    words = " ".join(["warm"] * 40)
    short, long = (plan(PROMPTED.replace("Be warm.", text)).cost for text in ("Be.", words))
    assert long.prompt_tokens > short.prompt_tokens


@pytest.mark.parametrize(
    ("old", "new", "where", "part"),
    [
        (
            "{system_prompt: Be warm.}",
            "{control: false}",
            "conditions.asked",
            "interventions, a system_prompt, or both",
        ),
        (
            "{system_prompt: Be warm.}",
            "{system_prompt: x, mode: fold}",
            "conditions.asked",
            "there are none; remove it",
        ),
        ("mode: fold", "mode: flod", "conditions.both.mode", "'fold'"),
        (
            '"tiny-random:llama"',
            '"tiny-random:llama", chat_template: none',
            "conditions.asked.system_prompt",
            "template",
        ),
    ],
)
def test_conditions_that_cannot_be(problems: Problems, old: str, new: str, where: str, part: str) -> None:
    found = problems(PROMPTED.replace(old, new))
    assert any(where == path and part in message for _, path, message in found), found


# Stand-ins


def test_stand_ins_are_drawn_once_for_what_a_condition_uses(plan: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from steerkit.api.direction import Direction
    from steerkit.stages import condition as module

    second = (
        "  other: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: embed}\nconditions:"
    )
    found = plan(RECIPE.replace("conditions:", second))
    directions = {
        name: Direction(torch.randn(2, 32, generator=torch.Generator().manual_seed(n)), Site("resid_pre", n), name=name)
        for n, name in enumerate(("warmth", "other"))
    }
    drawn: list[tuple[str, int]] = []
    draw = module.random_like

    def counted(direction: Direction, seed: int, number: int) -> Direction:
        drawn.append((direction.name, number))
        return draw(direction, seed, number)

    monkeypatch.setattr(module, "random_like", counted)
    controls = [one for one in module.conditions(found, directions) if one.kind == "control"]
    assert drawn == [("warmth", number) for number in range(1, 6)]
    assert len(controls) == 3 * 5 and len({id(one.placements[0].direction) for one in controls}) == 5


def test_stand_ins_have_the_values_that_they_had() -> None:
    import torch

    from steerkit.api.direction import Direction
    from steerkit.stages import random_like

    vectors = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    direction = Direction(vectors, Site("resid_pre", 1), name="warmth")
    key = sha256(b"7/warmth/2").digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:7], "big"))
    drawn = torch.randn(3, 16, generator=generator, dtype=torch.float64)
    expected = drawn / drawn.norm(dim=1, keepdim=True) * vectors.double().norm(dim=1, keepdim=True)
    found = random_like(direction, 7, 2)
    assert torch.equal(found.vectors, expected.float()) and found.name == "warmth/random-2"
    several = Direction({Site("resid_pre", n): vectors + n for n in range(2)}, name="warmth")
    other = random_like(several, 7, 2)
    assert not torch.equal(other.by_site[Site("resid_pre", 0)], other.by_site[Site("resid_pre", 1)])
    for site, like in several.items():
        assert torch.allclose(other.by_site[site].norm(dim=1), like.norm(dim=1), rtol=1e-6)


# Options of any name

ODD = """
from steerkit.api.hookspecs import EstimatorSpec, EvaluatorSpec, InterventionSpec, Needs, Options, hookimpl

STEERKIT_CONTRACT = 2

class Odd(Options):
    name: str = "n"
    data: int = 0
    direction: str = ""
    sites: int = 1
    positions: str = "p"
    schedule: float = 0.5
    gate: bool = False
    options: int = 2
    catalog: str = "c"


def wants(options):
    return Needs(next_token_logits=True)


@hookimpl
def steerkit_estimators():
    return [EstimatorSpec("odd_estimator", "O.", "nowhere:A", Odd)]


@hookimpl
def steerkit_interventions():
    return [InterventionSpec("odd_intervention", "O.", "nowhere:B", Odd)]


@hookimpl
def steerkit_evaluators():
    return [EvaluatorSpec("odd_evaluator", "O.", "nowhere:C", Odd, wants)]
"""
KEYS = ("name", "data", "direction", "sites", "positions", "schedule", "gate", "options", "catalog")
GIVEN = {"name": "x", "data": 3, "direction": "e", "sites": 4, "positions": "q", "schedule": 2.5, "gate": True}
GIVEN |= {"options": 9, "catalog": "d"}


@pytest.fixture
def odd_catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    import importlib

    import steerkit_estimators.mean_difference
    import steerkit_evaluators.refusal_score
    import steerkit_interventions.ablate
    import steerkit_interventions.add
    from steerkit_architectures import llama

    (tmp_path / "odd_plugin_of_a_test.py").write_text(ODD, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "odd_plugin_of_a_test", raising=False)
    return Catalog.from_modules(
        importlib.import_module("odd_plugin_of_a_test"),
        steerkit_interventions.add,
        steerkit_interventions.ablate,
        steerkit_estimators.mean_difference,
        steerkit_evaluators.refusal_score,
        llama,
    )


def test_options_may_be_called_as_our_keys_are(odd_catalog: Catalog, tmp_path: Path) -> None:
    import json

    options = json.dumps(GIVEN)
    text = RECIPE.replace("estimator: mean_difference,", f"estimator: odd_estimator, options: {options},")
    text = text.replace(
        "add: {direction: warmth, coefficient: 4.0}", f"odd_intervention: {{direction: warmth, options: {options}}}"
    )
    text = text.replace(
        "evaluate:", f"evaluate:\n  - odd_evaluator: {{data: probe.test, options: {options}, catalog: d}}"
    )
    text = text.replace(', "catalog": "d"}, catalog: d', "}, catalog: d")
    path = tmp_path / "odd.yaml"
    path.write_text(text, "utf-8")

    def check(plan: Plan) -> None:
        assert plan.directions[0].options.model_dump() == GIVEN
        item = plan.conditions[0].interventions[0]
        assert item.options.model_dump() == GIVEN and item.directions == ("warmth",) and item.gate is None
        assert plan.evaluations[0].options.model_dump() == GIVEN and plan.evaluations[0].name == "odd_evaluator"
        assert set(plan.to_json()["conditions"][0]["interventions"][0]["options"]) == set(KEYS)

    first = plan_recipe(path, (), odd_catalog)
    check(first)
    path.write_text(first.report.recipe, "utf-8")
    again = plan_recipe(path, (), odd_catalog)
    check(again)
    assert again.recipe == first.recipe and again.hash == first.hash


def test_options_apart_are_checked_where_they_stand(problems: Problems) -> None:
    def at(body: str) -> list[tuple[str, str]]:
        found = problems(
            RECIPE.replace("add: {direction: warmth, coefficient: 4.0}", f"add: {{direction: warmth, {body}}}")
        )
        return [(where, message) for _, where, message in found]

    ((where, message),) = at("options: {coeficient: 2}")
    assert where == "conditions.warmer.0.add.options.coeficient" and "Did you mean 'coefficient'" in message
    ((where, message),) = at("coefficient: 1, options: {coefficient: 2}")
    assert where == "conditions.warmer.0.add.options.coefficient" and "stands here twice" in message
    ((where, message),) = at("options: 3")
    assert where == "conditions.warmer.0.add.options" and "expected a mapping" in message
