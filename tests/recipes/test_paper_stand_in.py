"""A recipe of the paper, run on a stand-in for its model, shows the published figures beside its own."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from steerkit.recipe import load_recipe
from steerkit.report import write_report
from steerkit.report.numbers import significant
from steerkit.run import run_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
STAND_IN = "tiny-random:llama"
LESS = """\
name: stand_in
extends: {recipe}
model: {{source: "tiny-random:llama", dtype: float32}}
data:
  harmful: {{split: {{train: 4, validation: 2, test: 2}}}}
  harmless: {{split: {{train: 4, validation: 2, test: 2}}}}
filter: null
directions: {{candidates: {{positions: "[-2:][*]"}}, by_position: null, harmfulness: null}}
search:
  refusal:
    preset: {{arditi2024: {{tokens: [40]}}}}
    exhaustive: false
    subject_to: {{kl: {{at_most: 1.0e+9}}, induce: {{at_least: -1.0e+9}}}}
monitors: null
suffixes: null
conditions:
  {{orthogonalised: null, added: null, subtracted: null, positions_removed: null, harmfulness_added: null,
    prompted: null}}
evaluate: [kl_divergence: {{data: harmless.test}}]
control: false
report: {{samples: null, tradeoff: null, separation: false}}
"""
"""What of a recipe a random model of few tokens can go through in seconds, with bounds that candidates keep to."""


@pytest.mark.parametrize("family", ["llama3", "llama2"])
def test_the_published_figures_stand_beside_the_run_s_own(tmp_path: Path, family: str) -> None:
    recipe = RECIPES / "paper" / f"{family}.yaml"
    (tmp_path / "stand_in.yaml").write_text(LESS.format(recipe=recipe), "utf-8")
    published = load_recipe(recipe).recipe.report.published
    # Figures are those of the model that is run: the stand-in takes the name of the first.
    run = run_recipe(
        tmp_path / "stand_in.yaml", overrides=[f"report.published.0.model={STAND_IN}"], out=tmp_path / "runs"
    )
    results = json.loads((run / "results.json").read_text("utf-8"))
    (entry,), (search,) = results["published"], results["searches"]
    first, *others = published
    assert (entry["position"], entry["layer"], entry["layers"]) == (first.position, first.layer, first.layers)
    assert entry["scores"] == dict(first.scores)
    chosen = search["candidates"][search["chosen"]]
    page = " ".join(html.unescape(re.sub(r"<[^>]+>", "", write_report(run).read_text("utf-8"))).split())
    theirs = "; ".join(f"{name} {significant(value)}" for name, value in first.scores.items())
    own = "; ".join(f"{name} {significant(chosen['scores'][name])}" for name in first.scores)
    assert set(first.scores) == set(chosen["scores"])
    assert (
        f"Published for this model: position {signed(first.position)}, layer {first.layer} of {first.layers}; {theirs} "
        f"(here: position {signed(chosen['position'])}, layer {chosen['layer']} of {search['n_layers']}; {own})."
    ) in page
    assert page.count("Published for this model") == 1, "figures of the other sizes are not of this model"
    assert others


def test_nothing_is_published_of_another_model(tmp_path: Path) -> None:
    (tmp_path / "stand_in.yaml").write_text(LESS.format(recipe=RECIPES / "paper" / "llama3.yaml"), "utf-8")
    run = run_recipe(tmp_path / "stand_in.yaml", out=tmp_path / "runs")
    assert "published" not in json.loads((run / "results.json").read_text("utf-8"))
    assert "Published for this model" not in write_report(run).read_text("utf-8")


def signed(position: int) -> str:
    """As the report writes it."""
    return str(position).replace("-", "\N{MINUS SIGN}")
