"""Every shipped recipe is valid, and every small one runs to a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steerkit.catalog import Catalog
from steerkit.engine.prompts.chat import ChatFormat
from steerkit.engine.tiny.models import tiny_tokenizer
from steerkit.plan import make_plan
from steerkit.recipe import load_recipe, shipped_recipes
from steerkit.report import write_report
from steerkit.run import run_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
ALL = sorted(RECIPES.rglob("*.yaml"))
SMALL = [path for path in ALL if path.parent.name == "families"]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_it_is_valid(path: Path) -> None:
    plan = make_plan(load_recipe(path, ()), Catalog.discover())
    assert plan.report.description, "a reader of the report is told what was asked"
    assert plan.random_directions >= 1 or path in SMALL


def test_every_family_has_one() -> None:
    adapters = set()
    for path in SMALL:
        source = load_recipe(path).recipe.model.source
        adapters.add(source.removeprefix("tiny-random:"))
    for family in ("llama", "yi", "qwen", "gemma"):
        assert any(name.startswith(family) for name in adapters), family


def test_shipped_recipes_are_found_by_name() -> None:
    assert {"quickstart", "refusal_minimal"} <= set(shipped_recipes())


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_a_small_one_runs_to_a_report(path: Path, tmp_path: Path) -> None:
    run = run_recipe(path, out=tmp_path)
    results = json.loads((run / "results.json").read_text())
    kinds = {condition["kind"] for condition in results["conditions"]}
    assert kinds == {"baseline", "intervention", "control"}
    assert all(record["value"] is not None for record in results["records"])
    assert write_report(run).stat().st_size > 10_000
    again = load_recipe(run / "recipe.yaml", ())
    assert make_plan(again, Catalog.discover()).hash == json.loads((run / "plan.json").read_text())["hash"]


PUBLISHED = {
    "qwen1": [("1_8B", -1, 15, 24), ("7B", -1, 17, 32), ("14B", -1, 23, 40), ("72B", -1, 62, 80)],
    "yi": [("6B", -5, 20, 32), ("34B", -1, 37, 60)],
    "gemma": [("2b", -2, 10, 18), ("7b", -1, 14, 28)],
    "llama2": [("7b", -1, 14, 32), ("13b", -1, 26, 40), ("70b", -1, 21, 80)],
    "llama3": [("8B", -5, 12, 32), ("70B", -5, 25, 80)],
}
"""Size, position and layer of what was chosen, number of layers: Arditi et al. 2024 (arXiv 2406.11717)."""


@pytest.mark.parametrize("family", PUBLISHED)
def test_the_paper_s_recipes_state_its_choices_and_choose_by_its_rule(family: str) -> None:
    from steerkit.selection import ARDITI_2024

    path = RECIPES / "paper" / f"{family}.yaml"
    sizes = [None, *(name for name in load_recipe(path).profiles if name != "paper_prompts")]
    assert len(sizes) == len(PUBLISHED[family])
    stated = load_recipe(path).recipe.report.published
    assert [(one.position, one.layer, one.layers) for one in stated] == [row[1:] for row in PUBLISHED[family]]
    for profile, (size, position, layer, layers) in zip(sizes, PUBLISHED[family], strict=True):
        plan = make_plan(load_recipe(path, (), profile), Catalog.discover())
        assert size in plan.loading.source
        (search,) = plan.searches
        assert search.rule == ARDITI_2024
        (published,) = plan.report.published
        assert (published.position, published.layer, published.layers) == (position, layer, layers)
        # What was published keeps to the rule that is said to have chosen it.
        bounds = search.rule.bounds
        assert layer < int(0.8 * layers)
        assert all(bound.holds(published.scores[bound.score]) for bound in bounds)


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("llama2", "<|begin|>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHow? [/INST] "),
        ("gemma", "<|begin|><start_of_turn>user\nBe brief.\n\nHow?<end_of_turn>\n<start_of_turn>model\n"),
    ],
)
def test_a_system_prompt_stands_where_the_family_has_it(family: str, text: str) -> None:
    """Condition `prompted`: these families have no turn of the system's, and no text outside of turns."""
    template = (RECIPES / "paper" / "templates" / f"{family}.jinja").read_text("utf-8")
    chat = ChatFormat(tiny_tokenizer(), template=template)
    assert chat.with_system_prompt("Be brief.").text("How?") == text
    without = text.replace("<<SYS>>\nBe brief.\n<</SYS>>\n\n", "").replace("Be brief.\n\n", "")
    assert chat.text("How?") == without, "and without one the prompt is the published one"
