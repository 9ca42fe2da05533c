"""Whole conditions in files: what steers after reading is what steered before writing, in our format and in another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch

import steerkit
import steerkit_interventions.add
from steerkit import Direction, Site
from steerkit.api.architecture import Layout
from steerkit.api.condition import SavedCondition, SavedIntervention
from steerkit.api.direction_bytes import header_fault, read_header
from steerkit.api.format import Contents
from steerkit.api.hookspecs import InterventionSpec, Options, hookimpl
from steerkit.api.intervention import Affine, Intervention, Placement
from steerkit.artifacts.directions import read_file, write_file
from steerkit.catalog import Catalog, installed
from steerkit.errors import ArtifactError, AttachError, SteerkitError, UnknownNameError
from steerkit.sources import TINY_WIDTH
from steerkit.testing import FormatSuite
from tests.formats import whole_json

PROMPTS = ["the day was long and warm", "I feel"]


class TestWholeJson(FormatSuite):
    plugin: ClassVar = whole_json


def drawn(rank: int, site: str, name: str, **more: Any) -> Direction:
    generator = torch.Generator().manual_seed(sum(name.encode()))
    return Direction(torch.randn(rank, TINY_WIDTH, generator=generator), site, name=name, **more)


MANY = Direction({f"blocks.{i}.resid_pre": drawn(1, "embed", f"{i}").vectors for i in range(3)}, name="many")
TWO = drawn(2, "blocks.1.resid_post", "two", positions="instruction", reference_mean=torch.ones(TINY_WIDTH))
ONE = drawn(1, "blocks.0.resid_pre", "one")


def everything() -> list[Placement]:
    """Several directions, at one site and at many; positions, schedules, sites, and gates of every kind."""
    read_in_advance = steerkit.gate(
        MANY, site="blocks.0.resid_pre", at="prompt", above=-1e9, positions="all", prepass=True
    )
    return [
        steerkit.add(MANY, coefficient=0.3, positions="generated[:8]", schedule="linear(1, 0, 3)"),
        steerkit.add(TWO, coefficient=[0.1 + 0.2, -0.25], positions="instruction[-1]", sites="blocks.0-1.mlp_out"),
        steerkit.ablate(TWO, positions=[-3, -1]),
        steerkit.ablate(MANY, at="blocks.1.resid_pre", sites="blocks.*.resid_post", gate=steerkit.gate(ONE, below=0.2)),
        steerkit.add(ONE, coefficient=0.1, sites="blocks.1.resid_pre", gate=read_in_advance),
        steerkit.intervention("set_projection", ONE, value=1.5, schedule=[1, 0.5], positions="from_token(#7)"),
        steerkit.intervention("affine_concept_editing", TWO, sites="blocks.2.resid_pre"),
    ]


def with_json() -> Catalog:
    modules = [steerkit_interventions.add, *(_module(name) for name in ("ablate", "set_projection"))]
    return Catalog.from_modules(whole_json, *modules, _module("affine_concept_editing"))


def _module(name: str) -> ModuleType:
    from importlib import import_module

    return import_module(f"steerkit_interventions.{name}")


@pytest.mark.parametrize("format", ["steerkit", "whole_json"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_what_is_read_steers_as_what_was_saved_to_the_bit(family: str, format: str, tmp_path: Path) -> None:
    ours = format == "steerkit"
    path = tmp_path / ("c.safetensors" if ours else "c.json")
    before, catalog = everything(), None if ours else with_json()
    if not ours:  # which keeps no means
        before.pop()
    words: Any = {"name": "c", "system_prompt": "Be kind.", "mode": "hook", "format": format, "catalog": catalog}
    assert bool(steerkit.save_condition(path, before, **words)) is not ours
    loaded = steerkit.load_condition(path, catalog=catalog)
    assert (loaded.name, loaded.system_prompt, loaded.mode) == ("c", "Be kind.", "hook")
    assert list(loaded.directions) == ["many", "two", "one"]
    model = steerkit.load_model(f"tiny-random:{family}")

    def under(steer: Sequence[Placement]) -> tuple[Any, Any]:
        with model.steer(*steer, mode=loaded.mode):
            return model.forward(PROMPTS).logits, model.generate(PROMPTS, max_new_tokens=6)

    (logits, texts), (again, texts_again), (plain, _) = under(before), under(loaded.interventions), under([])
    assert torch.equal(logits, again) and texts == texts_again
    assert not torch.equal(logits, plain)
    data = path.read_bytes()
    steerkit.save_condition(path, loaded.interventions, **words)
    assert path.read_bytes() == data


def test_each_intervention_comes_back_with_all_that_it_was_given(tmp_path: Path) -> None:
    """One by one, so that none hides behind what the others do."""
    for number, before in enumerate(everything()):
        path = tmp_path / f"{number}.safetensors"
        steerkit.save_condition(path, before, name="c")
        (after,) = steerkit.load_condition(path).interventions
        assert vars(after.intervention.options) == vars(before.intervention.options)
        for part in ("sites", "positions", "schedule", "called", "factor"):
            assert getattr(after, part) == getattr(before, part), part
        assert str(after.gate) == str(before.gate)
        assert [one.sites for one in after.directions] == [one.sites for one in before.directions]


def test_gates_alone_may_read_one_direction_at_several_sites(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    gates = [steerkit.gate(MANY, above=0.5, site=f"blocks.{layer}.resid_pre") for layer in (2, 0)]
    placed = [steerkit.add(TWO, gate=gate) for gate in gates]
    steerkit.save_condition(path, placed, name="c")
    for before, after in zip(gates, steerkit.load_condition(path).interventions, strict=True):
        assert after.gate is not None and str(after.gate) == str(before)
        assert torch.equal(after.gate.direction.vectors, before.direction.vectors)
    # One that is read elsewhere than it was made can't stand in a direction at several sites.
    apart = steerkit.gate(MANY.at("blocks.1.resid_pre"), above=0.5, site="blocks.2.resid_pre")
    with pytest.raises(ArtifactError, match=r"Two different directions .* 'many'"):
        steerkit.save_condition(path, [*placed, steerkit.add(TWO, gate=apart)], name="c")


def test_a_file_of_a_condition_is_one_of_its_directions_too(tmp_path: Path) -> None:
    path, plain = tmp_path / "c.safetensors", tmp_path / "d.safetensors"
    steerkit.save_condition(path, steerkit.ablate(ONE), name="c")
    assert torch.equal(steerkit.load_directions(path)["one"].vectors, ONE.vectors)
    assert Direction.load(path).name == "one"
    steerkit.save_directions(plain, ONE)
    assert b"condition" not in plain.read_bytes()
    with pytest.raises(ArtifactError, match=r"d\.safetensors holds directions and no condition"):
        steerkit.load_condition(plain)


def test_a_damaged_condition_is_told_wherever_the_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    steerkit.save_condition(path, steerkit.ablate(ONE), name="c", mode="hook")
    path.write_bytes(path.read_bytes().replace(b"hook", b"hoax"))
    said = r"c\.safetensors: its condition can't be read \(mode: "
    for read in (steerkit.load_condition, steerkit.load_directions):
        with pytest.raises(ArtifactError, match=said):
            read(path)
    header, _ = read_header(path)
    assert header is not None and re.search(said, str(header_fault(header, str(path))))  # what `check` says


def test_a_system_prompt_may_stand_alone(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    steerkit.save_condition(path, name="p", system_prompt="Be kind.")
    loaded = steerkit.load_condition(path)
    assert (loaded.interventions, loaded.directions, loaded.system_prompt) == ((), {}, "Be kind.")
    for read in (steerkit.load_directions, Direction.load):
        with pytest.raises(ArtifactError, match=r"a condition without directions\. steerkit\.load_condition"):
            read(path)


class Loose(Options):
    """An option that may be anything."""

    weights: Any = None


class ByHand(Intervention[Loose]):
    """Of no plugin, unless a test makes it one."""

    def default_sites(self, layout: Layout) -> list[Site]:
        return []

    def update(self, site: Site, layout: Layout) -> Affine:
        return Affine()


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ((1, 2), "don't come back from JSON as they are"),
        (float("nan"), "can't be written as JSON"),
        (object(), "can't be written as JSON"),
        ([1, {"a": None}], ""),
    ],
)
def test_options_are_what_json_can_say(weights: object, said: str, tmp_path: Path) -> None:
    module, path = ModuleType("by_hand"), tmp_path / "c.safetensors"
    spec = InterventionSpec("by_hand", "Nothing.", f"{__name__}:ByHand", Loose, directions=0)
    module.STEERKIT_CONTRACT = 2  # type: ignore[attr-defined]
    module.steerkit_interventions = hookimpl(lambda: [spec], specname="steerkit_interventions")  # type: ignore[attr-defined]
    words: Any = {"name": "c", "catalog": Catalog.from_modules(module)}
    if said:
        with pytest.raises(ArtifactError, match=said):
            steerkit.save_condition(path, ByHand(Loose(weights=weights)), **words)
        return
    steerkit.save_condition(path, ByHand(Loose(weights=weights)), **words)
    (after,) = steerkit.load_condition(path, catalog=words["catalog"]).interventions
    assert after.intervention.options.weights == weights
    with pytest.raises(UnknownNameError, match=r"Unknown intervention 'by_hand'.* Install the package"):
        steerkit.load_condition(path)


@pytest.mark.parametrize(
    ("interventions", "more", "said"),
    [
        ([], {}, "'c' is empty: give it interventions, a system_prompt, or both"),
        ([], {"system_prompt": "x", "mode": "fold"}, "mode says how interventions are lowered, and there are none"),
        (ONE, {}, r"are what steerkit\.add, ablate and intervention give, not a Direction"),
        ([steerkit.add(ONE)], {"name": ""}, "name is a text that it goes by"),
        ([steerkit.add(ONE)], {"mode": "fould"}, "Did you mean 'fold'"),
        ([steerkit.add(ONE)], {"system_prompt": "\ud800"}, "half of a surrogate pair"),
        ([steerkit.add(ONE, positions="from_token(\ud800)")], {}, "half of a surrogate pair"),
        ([steerkit.add(ONE)], {"system_prompt": ["x"]}, "system_prompt is a text, not a list"),
        ([steerkit.add(ONE, coefficient=torch.tensor(2.0))], {}, r"tensor as coefficient.*coefficient=float\(tensor\)"),
        ([steerkit.add(ONE), steerkit.add((2 * ONE).replace(name="one"))], {}, "Two different directions .* 'one'"),
        (
            [steerkit.add(ONE, gate=steerkit.gate((2 * ONE).replace(name="one"), above=1))],
            {},
            "Two different directions .* 'one'",
        ),
        ([ByHand(Loose())], {}, "ByHand is of no installed plugin"),
    ],
)
def test_what_no_file_can_hold_is_said_before_it_is_written(
    interventions: Any, more: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "c.safetensors"
    with pytest.raises((ArtifactError, AttachError), match=said):
        steerkit.save_condition(path, interventions, **{"name": "c", **more})
    assert not path.exists()


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (
            {"plugin": "ad"},
            UnknownNameError,
            r"c\.json: Condition 'c': Unknown intervention 'ad'\. Did you mean 'add'.* Install the package",
        ),
        ({"options": {"coeficient": 1.0}}, SteerkitError, "'coeficient': there is none of that name.*'coefficient'"),
        ({"options": {"coefficient": "much"}}, SteerkitError, "option 'coefficient': 'much' is not a coefficient"),
        ({"directions": ("oen",)}, ArtifactError, "direction 'oen' isn't in the file. Did you mean 'one'"),
        ({"directions": ()}, SteerkitError, "'add' needs a direction"),
    ],
)
def test_what_a_file_asks_for_and_nobody_has_is_one_sentence(
    change: dict[str, Any], error: type[SteerkitError], said: str, tmp_path: Path
) -> None:
    held = replace(SavedIntervention("add", ("one",)), **change)
    path = tmp_path / "c.json"
    write_file(path, Contents({"one": ONE}, condition=SavedCondition("c", (held,))), "whole_json", with_json())
    with pytest.raises(error, match=said):
        steerkit.load_condition(path, catalog=with_json())


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "Input should be|should be"),
        ({"name": "c"}, "is empty"),
        ({"name": "c", "system_prompt": 3}, "system_prompt: .*string"),
        ({"name": "c", "interventions": [{"plugin": "add", "strength": 2}]}, "interventions.0.strength"),
        ({"name": "c", "interventions": [{"plugin": "add", "positions": "lsat"}]}, "lsat"),
        ({"name": "c", "interventions": [{"plugin": "add", "sites": ["blocks.x"]}]}, "blocks.x"),
        ({"name": "c", "interventions": [{"plugin": "add", "gate": {"direction": "d"}}]}, "one threshold"),
        ({"name": "c", "interventions": [{"plugin": "add", "gate": {"direction": "d", "above": True}}]}, "above"),
    ],
)
def test_a_damaged_condition_is_told_with_its_place(value: object, said: str) -> None:
    with pytest.raises(ArtifactError, match=rf"^here: its condition can't be read \((.|\n)*({said})"):
        SavedCondition.from_json(value, "here")


def test_a_catalog_of_somebodys_own_needs_no_format_for_ours(tmp_path: Path) -> None:
    path, mine = tmp_path / "c.safetensors", Catalog.from_modules(steerkit_interventions.add)
    steerkit.save_condition(path, steerkit.add(ONE), name="c", catalog=mine)
    assert steerkit.load_condition(path, catalog=mine).interventions[0].called == "add"
    placed = Placement(steerkit.add(ONE).intervention)  # without the name of its plugin
    steerkit.save_condition(path, placed, name="c")
    assert read_file(path, catalog=installed()).condition == SavedCondition(
        "c", (SavedIntervention("add", ("one",), {"coefficient": 1.0}),)
    )
