"""Sites that only a model's modules tell of: looked up once, where a recipe names any, and told with their lines."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from steerkit.api.architecture import Layout
from steerkit.api.hookspecs import ArchitectureSpec, hookimpl
from steerkit.catalog import Catalog, installed
from steerkit.errors import ModelError, RecipeError
from steerkit.plan import Plan, plan_recipe
from steerkit.plan.planned.model import PlannedModel
from tests.architectures.conftest import built
from tests.plan.conftest import RECIPE

PARALLEL = replace(
    built("llama")[1], blocks=tuple(replace(block, resid_mid=None) for block in built("llama")[1].blocks)
)
ENDS = replace(
    PARALLEL,
    blocks=tuple(replace(block, writers=(), heads=None, not_a_sum="a norm stands there") for block in PARALLEL.blocks),
)


class Look:
    """Gives a layout, or fails, and counts."""

    def __init__(self, found: Layout | Exception) -> None:
        self.found = found
        self.asked: list[tuple[str, str, bool]] = []

    def __call__(self, model: PlannedModel, adapter: str, trust_remote_code: bool) -> Layout:
        self.asked.append((model.source, adapter, trust_remote_code))
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@pytest.fixture(scope="module")
def discovering() -> Catalog:
    """The installed plugins with a fallback in place of the families."""
    module = ModuleType("a_fallback")

    @hookimpl
    def steerkit_architectures() -> list[ArchitectureSpec]:
        return [ArchitectureSpec("anything", "Any model.", "fake:Adapter", fallback=True)]

    module.STEERKIT_CONTRACT = 2  # type: ignore[attr-defined]
    module.steerkit_architectures = steerkit_architectures  # type: ignore[attr-defined]
    others = [entry for entry in Catalog.discover().entries if entry.kind != "architecture"]
    return Catalog((*Catalog.from_modules(module).entries, *others))


@pytest.fixture(scope="module")
def families() -> Catalog:
    return installed()


Planned = Callable[..., Plan]


@pytest.fixture
def planned(tmp_path: Path) -> Planned:
    def make(catalog: Catalog, look: Look | None, *sites: str) -> Plan:
        listed = f"sites: [{', '.join(sites)}]"
        text = RECIPE.replace("sites: [embed, blocks.0.attn_out]", listed)
        if catalog is not installed():
            folder = tmp_path / "model"
            folder.mkdir(exist_ok=True)
            config = {"model_type": "newer", "num_hidden_layers": 3, "hidden_size": 32}
            (folder / "config.json").write_text(json.dumps(config), "utf-8")
            text = text.replace('"tiny-random:llama"', str(folder))
        path = tmp_path / "plan.yaml"
        path.write_text(text, "utf-8")
        return plan_recipe(path, (), catalog, None, look)

    return make


CLOSED = ("embed", "blocks.0.resid_pre", "blocks.*.resid_post")


def test_nothing_is_looked_up_that_is_so_of_every_model(
    planned: Planned, families: Catalog, discovering: Catalog
) -> None:
    look = Look(ENDS)
    planned(discovering, look, *CLOSED)
    # The families declare these of every block.
    planned(families, look, *CLOSED, "blocks.*.attn_out", "blocks.1.resid_mid", "blocks.0.head_out")
    assert not look.asked
    # How many heads there are is nothing that they say of every model.
    with pytest.raises(RecipeError, match=r"line 17.*4 heads, 0 to 3"):
        planned(families, Look(PARALLEL), '"blocks.0.head_out[4]"')


@pytest.mark.parametrize(
    ("site", "found", "told"),
    [
        ("blocks.1.resid_mid", PARALLEL, "no point between them"),
        ("blocks.*.resid_mid", PARALLEL, "No site blocks.0.resid_mid"),
        ("blocks.2.mlp_out", ENDS, "a norm stands there, so only the block's two ends"),
        ("blocks.1.head_out[4]", PARALLEL, "4 heads, 0 to 3"),
        ("blocks.2.attn_out", ENDS, "a norm stands there"),
    ],
)
def test_a_site_that_the_model_lacks_is_told_with_its_line(
    site: str, found: Layout, told: str, planned: Planned, discovering: Catalog
) -> None:
    look = Look(found)
    with pytest.raises(RecipeError) as caught:
        planned(discovering, look, "blocks.0.resid_pre", f'"{site}"')
    (problem,) = caught.value.problems
    assert problem.where == "conditions.alone.interventions.0.ablate.sites.1" and problem.line == 17
    assert told in problem.message
    assert [one[1:] for one in look.asked] == [("anything", False)]


def test_the_name_of_a_discovered_writer_is_doubted_and_that_of_a_declared_one_is_not(
    planned: Planned, families: Catalog, discovering: Catalog
) -> None:
    plan = planned(discovering, Look(PARALLEL), "blocks.0.cross_out")
    (note,) = (note for note in plan.notes if "cross_out" in note)
    assert note.startswith("line 17, conditions.alone.interventions.0.ablate.sites.0: No site blocks.0.cross_out")
    assert note.endswith("That is as far as can be told without weights.")
    with pytest.raises(RecipeError, match=r"line 17.*No site blocks.0.cross_out.*Available: attn_out"):
        planned(families, Look(PARALLEL), "blocks.0.cross_out")


def test_a_site_that_is_there_is_settled(planned: Planned, families: Catalog, discovering: Catalog) -> None:
    look = Look(PARALLEL)
    before = planned(discovering, None, "blocks.1.attn_out", '"blocks.0.head_out[3]"')
    assert planned(discovering, look, "blocks.1.attn_out", '"blocks.0.head_out[3]"').notes == before.notes
    assert len(look.asked) == 1

    named = replace(built("llama")[1].blocks[0].writers[0], stream="cross_out")
    blocks = tuple(replace(block, writers=(*block.writers, named)) for block in PARALLEL.blocks)
    look = Look(replace(PARALLEL, blocks=blocks))
    said = "Stream 'cross_out' is one that not every model has; that is checked at load."
    assert said in planned(families, None, "blocks.*.cross_out").notes
    assert said not in planned(families, look, "blocks.*.cross_out").notes
    assert look.asked == [("tiny-random:llama", "llama", False)]


def test_where_the_layout_cannot_be_known_a_note_says_so_and_nothing_more(
    planned: Planned, discovering: Catalog
) -> None:
    look = Look(ModelError("its experts are chosen by numbers."))
    plan = planned(discovering, look, "blocks.1.resid_mid", '"blocks.0.head_out[99]"')
    (note,) = (note for note in plan.notes if "without weights" in note)
    assert note == "The sites are checked when the model is loaded: without weights, its experts are chosen by numbers."


def test_a_model_whose_ends_alone_are_sites_is_told_of(planned: Planned, discovering: Catalog) -> None:
    with pytest.raises(RecipeError):
        planned(discovering, Look(ENDS), "blocks.1.attn_out")
    blocks = (*ENDS.blocks[:2], PARALLEL.blocks[2])
    plan = planned(discovering, Look(replace(ENDS, blocks=blocks)), "blocks.2.attn_out")
    assert "Only the ends of blocks are sites of this model: a norm stands there." in plan.notes


def test_a_model_of_which_nothing_is_at_hand_is_not_looked_up(tmp_path: Path, families: Catalog) -> None:
    text = RECIPE.replace('"tiny-random:llama"', "nobody/has-this, adapter: llama")
    path = tmp_path / "plan.yaml"
    path.write_text(text.replace("blocks.0.attn_out", '"blocks.0.head_out[1]"'), "utf-8")
    look = Look(PARALLEL)
    plan = plan_recipe(path, (), families, None, look)
    assert not look.asked and sum("checked when the model is loaded" in note for note in plan.notes) == 1


def test_names_that_people_know_give_the_same_plan(planned: Planned, families: Catalog) -> None:
    ours = planned(families, None, "embed", "blocks.*.resid_pre", "blocks.0.attn_out")
    theirs = planned(families, None, "hook_embed", '"blocks.*.hook_resid_pre"', '"attentions_output[0]"')
    assert theirs.conditions == ours.conditions
    with pytest.raises(RecipeError, match=r"line 17.*within attention"):
        planned(families, None, "blocks.0.attn.hook_pattern")


def test_planning_imports_no_torch(tmp_path: Path) -> None:
    """A recipe without anything to look up, planned with a look at hand, in a process of its own."""
    path = tmp_path / "plan.yaml"
    path.write_text(RECIPE, "utf-8")
    code = (
        "import sys; from steerkit.catalog import Catalog; from steerkit.plan import plan_recipe; "
        "from steerkit.cli.looking import look; "
        f"plan_recipe({str(path)!r}, (), Catalog.discover(), None, look); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
