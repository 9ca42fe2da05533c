"""Recipe and catalog to a plan: names, leaks, and what a hash follows."""

from __future__ import annotations

import json
from pathlib import Path

from steerkit.plan import DataRef
from steerkit.types import Positions, Site
from tests.plan.conftest import RECIPE, UNSEEN, Planner, Problems


def test_every_name_is_resolved(plan: Planner) -> None:
    found = plan()
    (warmth,) = found.directions
    assert (warmth.positive, warmth.negative) == (DataRef("warm", "train"), DataRef("cold", "train"))
    assert (warmth.site, warmth.positions) == (Site("resid_pre", 1), Positions("", (-1,)))
    assert warmth.estimator is not None and warmth.estimator.name == "mean_difference"
    names = [condition.name for condition in found.conditions]
    assert names == ["warmer", "dose[coefficient=-8]", "dose[coefficient=0.5]", "alone"]
    warmer, low, _, alone = found.conditions
    assert warmer.interventions[0].options.model_dump() == {"coefficient": 4.0}
    assert (low.sweep, low.swept) == ("dose", {"coefficient": -8.0})
    assert low.interventions[0].options.model_dump() == {"coefficient": -8.0}
    assert alone.interventions[0].sites == (Site("embed"), Site("attn_out", 0))
    assert alone.interventions[0].positions == Positions("generated", (), (None, 2))
    assert [condition.n_controls(found.random_directions) for condition in found.conditions] == [5, 5, 5, 0]
    (evaluation,) = found.evaluations
    assert evaluation.needs.next_token_logits
    assert evaluation.data == (DataRef("probe", "test"), DataRef("warm", "test"))
    assert found.samples is not None and (found.samples.n, found.samples.max_new_tokens) == (2, 7)
    assert found.architecture is not None and found.architecture.name == "llama"
    kinds = {(item["kind"], item["name"]) for item in found.plugins}
    assert kinds >= {("architecture", "llama"), ("estimator", "mean_difference"), ("intervention", "add")}
    assert found.notes == (UNSEEN,)
    assert json.loads(json.dumps(found.to_json()))["conditions"][1]["swept"] == {"coefficient": -8.0}


BAD = """\
name: plan
model: {source: "tiny-random:llama", adapter: lama, system_prompt: hi, chat_template: none}
data:
  warm: {inline: [w1, w2, w3], split: {train: 2, test: 1}}
  cold: {file: missing.jsonl, split: {train: 2}}
  same: {inline: [W1, w2, w3]}
directions:
  one: {estimator: mean_diference, positive: warm.trian, negative: cold.train, site: blocks.1.resid_pre}
  two: {estimator: mean_difference, positive: warm.train, negative: same, site: embed, options: {trim: 1}}
  three: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: embed, positions: generated}
  four: {file: missing.safetensors}
conditions:
  baseline: [ {add: {direction: two}} ]
  a:
    - add: {direction: tow, coefficent: 3}
    - add: {coefficient: x}
  b: [ {ad: {direction: two}} ]
  c:
    interventions: [ {add: {direction: two, sites: []}} ]
    sweep: {coeficient: [1]}
evaluate:
  - refusal_score: {data: [warm.test, warm.test], tokens: [x]}
  - refusal_score: {data: worm.test, tokens: [x], epsilon: -1}
  - refusal_rat: {data: warm.test}
report: {samples: {data: warm.test, n: 50}}
"""


def test_every_problem_is_gathered_before_one_is_told(
    problems: Problems,
) -> None:
    found = problems(BAD)
    expected = [
        (2, "model.adapter", "Did you mean 'llama'"),
        (2, "model.system_prompt", "needs a chat template"),
        (5, "data.cold", "there is no file"),
        (8, "directions.one.estimator", "Did you mean 'mean_difference'"),
        (8, "directions.one.positive", "Did you mean 'warm.train'"),
        (9, "directions.two.options.trim", "nothing can be set here"),
        (9, "directions.two.negative", "warm.train and same share 2 texts"),
        (10, "directions.three.positions", "no generated tokens"),
        (11, "directions.four.file", "there is no file"),
        (13, "conditions.baseline", "another name"),
        (15, "conditions.a.0.add.direction", "Did you mean 'two'"),
        (15, "conditions.a.0.add.coefficent", "Did you mean 'coefficient'"),
        (16, "conditions.a.1.add", "needs a direction"),
        (16, "conditions.a.1.add.coefficient", "'x' is not a coefficient"),
        (17, "conditions.b.0.ad", "Did you mean 'add'"),
        (19, "conditions.c.interventions.0.add.sites", "expected at least one site"),
        (20, "conditions.c.sweep.coeficient", "Did you mean 'coefficient'"),
        (22, "evaluate.0.refusal_score.data", "twice"),
        (22, "evaluate.0.refusal_score.data.0", "same and warm.test share 1 text"),
        (23, "evaluate.1.refusal_score.data", "Did you mean 'warm.test'"),
        (23, "evaluate.1.refusal_score", "two evaluators are called 'refusal_score'"),
        (23, "evaluate.1.refusal_score.epsilon", "at least 0"),
        (24, "evaluate.2.refusal_rat", "Did you mean 'refusal_rate'"),
        (25, "report.samples.n", "warm.test has 1"),
    ]
    for line, where, part in expected:
        hits = [item for item in found if item[:2] == (line, where) and part.lower() in item[2].lower()]
        assert hits, (line, where, part, found)
    assert len(found) == len(expected)


def test_a_bad_value_of_a_sweep_is_told_at_the_sweep(
    problems: Problems,
) -> None:
    text = RECIPE.replace(
        "interventions: [ {add: {direction: warmth}} ]", "interventions: [ {ablate: {direction: warmth}} ]"
    )
    text = text.replace("coefficient: [-8, 0.5]", "nothing: [1]")
    ((line, where, message),) = problems(text)
    assert (line, where) == (15, "conditions.dose.sweep.nothing")
    assert "has an option 'nothing'" in message


def test_one_set_of_prompts_on_both_sides_is_named_once(problems: Problems) -> None:
    found = problems(RECIPE.replace("negative: cold.train", "negative: warm.train"))
    assert [one[1:] for one in found if one[1] == "directions.warmth.negative"] == [
        ("directions.warmth.negative", "positive and negative are both warm.train; name other prompts here")
    ]


def test_what_directions_were_estimated_from_may_not_be_measured_on(plan: Planner, problems: Problems) -> None:
    unsplit = (
        RECIPE.replace(", split: {train: 4, test: 2}", "").replace("warm.train", "warm").replace("cold.train", "cold")
    )
    ((line, where, message),) = problems(unsplit.replace("warm.test", "warm"))
    assert (line, where) == (20, "evaluate.0.refusal_score.data.1")
    assert "directions are estimated from warm" in message and "split the data set" in message
    copied = RECIPE.replace("inline: [p1, p2, p3], split: {test: 3}", "inline: [p1, W1, w2, w3, w4, w5, w6]")
    ((_, where, message), *_) = problems(copied.replace("probe.test", "probe"))
    assert where == "evaluate.0.refusal_score.data.0"
    assert "warm.train and probe share 4 texts" in message
    assert plan(RECIPE.replace("warm.test", "warm.train")).notes == (
        "warm.train is measured on, and directions are estimated from it: not held out.",
        UNSEEN,
    )


def test_a_recipe_that_measures_nothing_is_told_so(
    problems: Problems,
) -> None:
    head = "name: n\nmodel: {source: 'tiny-random:llama'}\n"
    assert "nothing to do" in problems(head)[0][2].lower()
    text = RECIPE.partition("evaluate:")[0]
    assert problems(text)[0][1] == "conditions"


def test_unused_parts_are_noted(plan: Planner) -> None:
    text = RECIPE.replace("data:\n", "data:\n  spare: {inline: [s]}\n", 1)
    assert plan(text).notes == ("Data set 'spare' is not used.", UNSEEN)


def test_the_hash_follows_what_results_depend_on(plan: Planner, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("p1\np2\np3\n", "utf-8")
    text = RECIPE.replace("inline: [p1, p2, p3]", "file: p.txt")
    first = plan(text).hash
    assert plan(text + "# a comment\n").hash == first
    assert plan(text, "seed=4").hash != first
    (tmp_path / "p.txt").write_text("p1\np2\np4\n", "utf-8")
    assert plan(text).hash != first
