"""A recipe that can't be read in part is planned in part: all problems at once, and no consequences among them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steerkit.api.hookspecs import Options
from steerkit.catalog import Catalog
from steerkit.errors import RecipeError
from steerkit.plan import make_plan, plan_recipe
from steerkit.recipe import draft_recipe, load_recipe
from steerkit.recipe.document import read_document, write_document
from tests.plan.conftest import Problems

GOOD = """\
seed: 3
model: {source: "tiny-random:llama", dtype: float32}
data:
  warm: {inline: [w1, w2, w3, w4, w5, w6], split: {train: 4, test: 2}}
  cold: {file: cold.jsonl, field: query, split: {train: 4, test: 2}}
  probe: {inline: [p1, p2, p3, p4, p5, p6]}
directions:
  warmth: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}
conditions:
  warmer:
    - add: {direction: warmth, coefficient: 4.0, sites: [embed, blocks.0.attn_out], positions: all}
  dose:
    interventions: [{add: {direction: warmth}}]
    sweep: {coefficient: [-8, 0.5]}
  late:
    - ablate:
        direction: warmth
        positions: generated
        schedule: exponential(0.9)
        gate: {direction: warmth, above: 3, site: embed, at: prompt, positions: instruction, prepass: true}
evaluate:
  - refusal_score: {data: [probe, warm.test], tokens: [x]}
  - refusal_rate: {data: probe, max_new_tokens: 3, name: rate}
control: {random_directions: 2}
report: {samples: {data: probe, n: 2}}
"""

CATALOG = Catalog.discover()


def write(folder: Path, text: str) -> Path:
    rows = "".join(f'{{"id": {n}, "query": "c{n}", "note": "n{n}"}}\n' for n in range(6))
    (folder / "cold.jsonl").write_text(rows, "utf-8")
    path = folder / "r.yaml"
    path.write_text(text, "utf-8")
    return path


@pytest.fixture
def problems(tmp_path: Path) -> Problems:
    def find(text: str, *overrides: str) -> list[tuple[int | None, str, str]]:
        with pytest.raises(RecipeError) as caught:
            plan_recipe(write(tmp_path, text), overrides, CATALOG)
        return [(item.line, item.where, item.message) for item in caught.value.problems]

    return find


def test_the_good_recipe_is_good(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert plan_recipe(path, (), CATALOG).hash == make_plan(load_recipe(path), CATALOG).hash
    assert draft_recipe(path) == load_recipe(path)
    assert not draft_recipe(path).problems


EXAMPLE = """\
model: {source: "tiny-random:llama", dtpe: float32}
data: {a: {inline: [one, "", 3]}, b: {file: nothere.jsonl}}
directions: {d: {estimator: mean_diff, positive: a, negative: bb, site: blocks.0.resid_pst, positions: lst}}
conditions: {c: [{addd: {direction: e, coefficient: .nan}}]}
evaluate: [{refusal_scor: {data: a}}]
"""
UNREADABLE = [
    (1, "model.dtpe", "Did you mean 'dtype'"),
    (2, "data.a.inline.2", "expected text or a mapping (key: value), not 3; put it in quotes"),
    (3, "directions.d.positions", "Did you mean 'last'"),
    (3, "directions.d.site", "Did you mean 'resid_post'"),
    (4, "conditions.c.0.addd.coefficient", ".nan is not a finite number"),
]
UNRESOLVED = [
    (2, "data.a.inline.1", "is empty"),
    (2, "data.b", "there is no file"),
    (3, "directions.d.estimator", "Did you mean 'mean_difference'"),
    (3, "directions.d.negative", "Did you mean 'b'"),
    (4, "conditions.c.0.addd", "Did you mean 'add'"),
    (4, "conditions.c.0.addd.direction", "unknown direction 'e'. Available: d."),
    (5, "evaluate.0.refusal_scor", "Did you mean 'refusal_score'"),
]


def test_what_cannot_be_read_does_not_hide_what_cannot_be_resolved(tmp_path: Path, problems: Problems) -> None:
    found = problems(EXAMPLE)
    expected = sorted([*UNREADABLE, *UNRESOLVED], key=lambda item: item[:2])
    assert [item[:2] for item in found] == [item[:2] for item in expected]
    for (*_, part), (*_, message) in zip(expected, found, strict=True):
        assert part in message
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "r.yaml")
    assert [(item.line, item.where) for item in caught.value.problems] == [item[:2] for item in UNREADABLE]


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("model: {source", "modle: {source", "modle"),
        ("source:", "sorce:", "model.sorce"),
        ("source: 'tiny-random:llama'", "source: 5", "model.source"),
        ("source: 'tiny-random:llama'", "source: 'tiny-random:llama', system_prompt: ''", "model.system_prompt"),
        ("conditions:\n", "conditions:\n  prompted: {system_prompt: ' '}\n", "conditions.prompted.system_prompt"),
        ("coefficient: 4.0", "coefficient: 4.0, sites: []", "conditions.warmer.0.add.sites"),
        ("data:\n", "dta:\n", "dta"),
        ("directions:\n", "directons:\n", "directons"),
        ("conditions:\n", "condtions:\n", "condtions"),
        ("evaluate:\n", "evaluat:\n", "evaluat"),
        ("warm: {inline", "warm: {inlin", "data.warm.inlin"),
        ("[w1, w2, w3, w4, w5, w6]", "w1", "data.warm.inline"),
        ("[w1, w2,", "[w1, 2,", "data.warm.inline.1"),
        ("[w1, w2,", "[w1, .nan,", "data.warm.inline.1"),
        ("split: {train: 4, test: 2}}\n  cold", "split: {trian: 4, test: 2}}\n  cold", "data.warm.split.trian"),
        ("split: {train: 4, test: 2}}\n  cold", "split: {train: 4, test: x}}\n  cold", "data.warm.split.test"),
        ("split: {train: 4, test: 2}}\n  cold", "split: 5}\n  cold", "data.warm.split"),
        ("split: {train: 4, test: 2}}\n  cold", "splt: {train: 4, test: 2}}\n  cold", "data.warm.splt"),
        ("field: query", "feild: prompt", "data.cold.feild"),
        ("field: query", "field: 5", "data.cold.field"),
        ("file: cold.jsonl", "file: cold.jsonl, inline: [x]", "data.cold"),
        ("  probe:", "  warm: {inline: [z], split: {test: 1}}\n  probe:", "data.warm"),
        ("site: blocks.1.resid_pre", "site: blocks.1.resid_per", "directions.warmth.site"),
        ("positive: warm.train", "positve: warm.train", "directions.warmth.positve"),
        ("- add: {direction: warmth,", "- add: {direction: 5,", "conditions.warmer.0.add.direction"),
        ("- add: {direction: warmth,", "- add: {direction: .nan,", "conditions.warmer.0.add.direction"),
        ("coefficient: 4.0", "coefficient: .nan", "conditions.warmer.0.add.coefficient"),
        ("    - add: {d", "    - {x: 1, add: {d", "conditions.warmer.0"),
        ("interventions: [{add", "intervention: [{add", "conditions.dose.intervention"),
        ("[-8, 0.5]", "[-8, x]", "conditions.dose.sweep.coefficient.1"),
        ("[-8, 0.5]", "[]", "conditions.dose.sweep"),
        ("{coefficient: [-8", "{directions: [1], coefficient: [-8", "conditions.dose.sweep"),
        ("[probe, warm.test]", "[probe, 5]", "evaluate.0.refusal_score.data.1"),
        ("[probe, warm.test]", "[]", "evaluate.0.refusal_score.data"),
        ("data: probe, max", "dta: probe, max", "evaluate.1.refusal_rate.data"),
        ("name: rate", "name: 5", "evaluate.1.refusal_rate.name"),
        ("samples: {data: probe, n: 2}", "sampels: {data: probe, n: 2}", "report.sampels"),
        ("probe: {inline: [p1, p2, p3, p4, p5, p6]}", "probe: 5", "data.probe"),
        (
            "{estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}",
            "x",
            "directions.warmth",
        ),
        ("n: 2}", "n: x}", "report.samples.n"),
        ("{random_directions: 2}", "{random_direction: 2}", "control.random_direction"),
        ("seed: 3", "sead: 3", "sead"),
        ("schedule: exponential(0.9)", "shedule: exponential(0.9)", "conditions.late.0.ablate.shedule"),
        ("schedule: exponential(0.9)", "schedule: exponential(9)", "conditions.late.0.ablate.schedule"),
        ("{direction: warmth, above: 3", "{direction: warmht, above: 3", "conditions.late.0.ablate.gate.direction"),
        ("{direction: warmth, above: 3", "{direction: 5, above: 3", "conditions.late.0.ablate.gate.direction"),
        ("above: 3", "abov: 3", "conditions.late.0.ablate.gate.abov"),
        ("above: 3", "above: x", "conditions.late.0.ablate.gate.above"),
        ("at: prompt", "at: promt", "conditions.late.0.ablate.gate.at"),
        ("at: prompt", "att: prompt", "conditions.late.0.ablate.gate.att"),
        ("prepass: true", "prepass: yes", "conditions.late.0.ablate.gate.prepass"),
        ("site: embed,", "site: embd,", "conditions.late.0.ablate.gate.site"),
        ("        gate: {", "        gats: {", "conditions.late.0.ablate.gats"),
    ],
)
def test_one_mistake_is_one_problem(problems: Problems, old: str, new: str, where: str) -> None:
    text = GOOD.replace('"tiny-random:llama"', "'tiny-random:llama'")
    assert text.count(old) == 1
    text = text.replace(old, new)
    text = text.replace("positions: all}", "positions: all}}") if new.startswith("    - {x") else text
    found = problems(text)
    assert [item[1] for item in found if item[1] != "evaluate.1.refusal_rate.dta"] == [where], found


def test_a_bad_name_is_one_problem_however_often_it_is_used(problems: Problems) -> None:
    assert [item[1] for item in problems(GOOD.replace("warmth", "war mth"))] == ["directions.war mth"]
    text = GOOD.replace("cold", "co ld").replace("co ld.jsonl", "cold.jsonl")
    assert [item[1] for item in problems(text)] == ["data.co ld"]


def test_what_stands_beside_a_mistake_is_checked_too(problems: Problems) -> None:
    found = problems("""\
nme: 5
model: {adaptr: x, adapter: lama, dtype: 5}
data:
  one: {file: missing.jsonl, feild: x}
  two: {inline: [a, b], split: {train: 3, tset: 1}}
  three: {fil: x.jsonl, hub_split: test, split: {}}
directions:
  sited: {estimator: mean_diference, positive: two.tran, site: 5, options: {trim: 1}}
  filed: {file: missing.safetensors, site: embed, positions: x}
conditions:
  plain: [{add: {direction: siteed, sites: [embd, blocks.0.mlp_out, 5], coeficient: 2}}, {ablate: 5}]
  swept: {interventions: [{add: {direction: sited, coeficient: 2}}], sweep: {}, controls: false}
evaluate:
  - refusal_rate: {max_new_tokns: 2}
  - refusal_rate: {data: two.train}
report: {samples: {data: tow, n: 0}, titel: x}
""")
    assert [item[:2] for item in found] == [
        (1, "nme"),
        (2, "model.adapter"),
        (2, "model.adaptr"),
        (2, "model.dtype"),
        (2, "model.source"),
        (4, "data.one"),
        (4, "data.one.feild"),
        (5, "data.two"),
        (5, "data.two.split.tset"),
        (6, "data.three"),
        (6, "data.three.fil"),
        (6, "data.three.split"),
        (8, "directions.sited"),
        (8, "directions.sited.estimator"),
        (8, "directions.sited.site"),
        (9, "directions.filed.file"),
        (9, "directions.filed.positions"),
        (11, "conditions.plain.0.add.coeficient"),
        (11, "conditions.plain.0.add.direction"),
        (11, "conditions.plain.0.add.sites.0"),
        (11, "conditions.plain.0.add.sites.2"),
        (11, "conditions.plain.1.ablate"),
        (12, "conditions.swept.controls"),
        (12, "conditions.swept.interventions.0.add.coeficient"),
        (12, "conditions.swept.sweep"),
        (14, "evaluate.0.refusal_rate.data"),
        (14, "evaluate.0.refusal_rate.max_new_tokns"),
        (15, "evaluate.1.refusal_rate"),
        (16, "report.samples.data"),
        (16, "report.samples.n"),
        (16, "report.titel"),
    ]


def test_a_text_that_is_none_hides_no_other(problems: Problems) -> None:
    found = problems(GOOD.replace("[w1, w2, w3, w4, w5, w6]", "[w1, 2, 3, w1, ' ', w6, w7]"))
    assert [item[1] for item in found] == [f"data.warm.inline.{n}" for n in (1, 2, 3, 4)]


def test_what_lost_evaluators_would_measure_is_not_missed(problems: Problems) -> None:
    text = GOOD.partition("report:")[0]
    assert [item[1] for item in problems(text.replace("evaluate:", "evaluat:"))] == ["evaluat"]
    assert [item[1] for item in problems(text.partition("evaluate:")[0])] == ["conditions"]


def test_an_option_that_a_lost_sweep_sets_is_not_missed(tmp_path: Path) -> None:
    class Required(Options):
        coefficient: float

    add = CATALOG.entry("intervention", "add")
    assert add.spec is not None
    strict = replace(add, spec=replace(add.spec, options=Required))
    catalog = replace(CATALOG, entries=tuple(strict if entry is add else entry for entry in CATALOG.entries))
    for old, new, problem in (
        ("[-8, 0.5]", "x", "line 14, conditions.dose.sweep.coefficient: expected a list"),
        ("sweep: {coefficient: [-8, 0.5]}", "", "line 13, conditions.dose.interventions.0.add.coefficient: required"),
    ):
        (found,) = told(partial(plan_recipe, write(tmp_path, GOOD.replace(old, new)), (), catalog))
        assert found.startswith(problem)


def test_a_leak_is_told_whatever_else_is_wrong(problems: Problems) -> None:
    text = (
        GOOD.replace("[probe, warm.test]", "cold").replace("mean_difference", "mean_dif").replace("seed: 3", "sed: 3")
    )
    text = text.replace("field: query, split: {train: 4, test: 2}", "field: query").replace("cold.train", "cold")
    assert [item[:2] for item in problems(text)] == [
        (1, "sed"),
        (8, "directions.warmth.estimator"),
        (22, "evaluate.0.refusal_score.data"),
    ]


def test_keys_of_ours_are_among_the_nearest_of_an_option(problems: Problems) -> None:
    found = problems(
        GOOD.replace("attn_out], positions: all", "attn_out], positon: all").replace("name: rate", "nam: r")
    )
    (_, one, first), (_, other, second) = found
    assert (one, other) == ("conditions.warmer.0.add.positon", "evaluate.1.refusal_rate.nam")
    assert "Did you mean 'positions'" in first and "Did you mean 'name'" in second


def test_a_broken_override_hides_nothing(problems: Problems) -> None:
    found = problems(
        GOOD.replace("dtype: float32", "dtype: 5"),
        "model.dtype=[1",
        "conditions.warmer.0.add.direction=x",
        "seed=y",
        "report.tilte=z",
    )
    assert [item[:2] for item in found] == [
        (None, "--set conditions.warmer.0.add.direction"),
        (None, "--set model.dtype=[1"),
        (None, "--set report.tilte"),
        (None, "--set seed"),
    ]


def test_a_draft_with_problems_never_becomes_a_plan(tmp_path: Path) -> None:
    draft = draft_recipe(write(tmp_path, GOOD.replace("seed: 3", "seed: x")))
    assert draft.recipe.seed == 0 and draft.lost("seed") and not draft.lost("model")
    with pytest.raises(RecipeError, match="line 1, seed: expected a whole number"):
        make_plan(draft, CATALOG)


@pytest.mark.parametrize("text", ["", "- a\n", "a: [1\n"])
def test_where_there_is_no_recipe_there_is_no_draft(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError, match="Nothing was run"):
        draft_recipe(write(tmp_path, text))


ODD = [None, True, 0, -1, 1.5, "", "x y", [], {}, [[]], [None], [1], {"fil": "x"}, {"trian": 1}, 10**30]


def keys(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in inner for found in keys(item, (*path, key)))]


def break_something(value: Any, data: st.DataObject) -> tuple[str | int, ...]:
    """Put an odd value at a key, rename the key, or take it away. Returns the path."""
    path = data.draw(st.sampled_from([path for path in keys(value) if path]))
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    how = data.draw(st.sampled_from(["odd", "renamed", "gone"]))
    if how == "odd" or isinstance(holder, list):
        holder[path[-1]] = copy.deepcopy(data.draw(st.sampled_from(ODD)))
        return path
    kept = holder.pop(path[-1])
    if how == "renamed":
        holder[f"{path[-1]}s"[1:]] = kept
    return path


def told(call: Callable[[], object]) -> list[str]:
    try:
        call()
    except RecipeError as error:
        return [str(problem) for problem in error.problems]
    return []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data(), times=st.integers(1, 4))
def test_the_plan_tells_all_that_the_schema_tells(tmp_path: Path, data: st.DataObject, times: int) -> None:
    value = read_document(GOOD).value
    broken = [break_something(value, data) for _ in range(times)]
    path = write(tmp_path, write_document(value))
    unreadable = told(lambda: load_recipe(path))
    everything = told(lambda: plan_recipe(path, (), CATALOG))
    assert set(unreadable) <= set(everything)
    assert len(set(everything)) == len(everything)
    if not unreadable:
        assert everything == told(lambda: make_plan(load_recipe(path), CATALOG))
    elif times == 1 and len(broken[0]) > 2 and broken[0][2:] != ("inline",):
        # Where a section or all texts are replaced, what others refer to is gone as well: problems of their own.
        # A misspelt `data` is missing to the schema, and an unknown option to the plan, which alone knows the options.
        rest = [problem for problem in everything if problem in unreadable or ", evaluate." not in problem]
        assert rest == unreadable, "what follows from one mistake is no further problem"
