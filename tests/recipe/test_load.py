"""Recipes from YAML: the grammar's short forms, overrides, and every problem at once with its line."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.errors import RecipeError
from steerkit.recipe import load_recipe, recipe_from_mapping, shipped_recipes
from steerkit.recipe.document import read_document

GOOD = """\
seed: 42
model: {source: "tiny-random:llama", dtype: float32}
data:
  warm: {inline: [a, b, c, d], split: {train: 2, test: 2}}
  cold: {inline: [e, f, g, h], split: {train: 2, test: 2}}
directions:
  warmth:
    estimator: mean_difference
    positive: warm.train
    negative: cold.train
    site: blocks.1.resid_pre
    positions: [-2, -1]
conditions:
  warmer: [ {add: {direction: warmth, coefficient: 4.0}}, ablate ]
  dose:
    interventions:
      - add: {direction: warmth, sites: blocks.0.resid_pre, positions: "generated[:8]"}
    sweep: {coefficient: [-8, 4.5]}
    control: false
  late:
    - add: {direction: warmth, positions: from_token(#7), schedule: [1, 0.5], gate: {direction: warmth, above: 3}}
    - ablate: {gate: {direction: warmth, below: 2, site: embed, at: prompt, positions: prompt, prepass: true}}
evaluate:
  - refusal_score: {data: warm.test, tokens: [yes, no]}
  - refusal_score: {data: [cold.test, warm.test], name: twice}
control: false
"""


def write(tmp_path: Path, text: str, name: str = "my recipe.yaml") -> Path:
    path = tmp_path / name
    path.write_text(textwrap.dedent(text), "utf-8")
    return path


def problems(path: Path, *overrides: str) -> list[tuple[int | None, str, str]]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    assert str(caught.value).endswith("Nothing was run.")
    assert caught.value.exit_code == 2
    return [(item.line, item.where, item.message) for item in caught.value.problems]


def test_a_recipe_is_read_with_its_short_forms(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD)).recipe
    assert (recipe.name, recipe.seed, recipe.model.batch_tokens) == ("my-recipe", 42, 4096)
    assert recipe.control.random_directions == 0
    add, ablate = recipe.conditions["warmer"].interventions
    assert (add.plugin, add.direction, add.options, add.positions) == ("add", "warmth", {"coefficient": 4.0}, "all")
    assert (ablate.plugin, ablate.direction, ablate.options) == ("ablate", None, {})
    dose = recipe.conditions["dose"]
    assert dose.interventions[0].sites == ("blocks.0.resid_pre",)
    assert dose.interventions[0].positions == "generated[:8]"
    assert dose.sweep == {"coefficient": (-8, 4.5)}
    assert not dose.control
    assert recipe.directions["warmth"].positions == "[-2,-1]"
    one, two = recipe.evaluate
    assert (one.name, one.data, one.options) == ("refusal_score", ("warm.test",), {"tokens": ["yes", "no"]})
    assert (two.name, two.data, two.options) == ("twice", ("cold.test", "warm.test"), {})


def test_a_resolved_recipe_is_the_same_recipe(tmp_path: Path) -> None:
    text = GOOD.replace("dtype: float32", "chat_template: {file: t.jinja}").replace(
        "data:\n", "data:\n  f: {file: f.txt}\n", 1
    )
    recipe = load_recipe(write(tmp_path, text))
    again = load_recipe(write(tmp_path, recipe.to_yaml(), "again.yaml"))
    assert again.to_yaml() == recipe.to_yaml()
    assert again.path_of(again.recipe.data["f"].file or "") == tmp_path / "f.txt"
    assert again.recipe.model.chat_template_file == str(tmp_path / "t.jinja")
    assert again.recipe.conditions == recipe.recipe.conditions
    assert recipe_from_mapping(recipe.resolved()) == again


def test_python_values_follow_the_same_rules() -> None:
    value: dict[str, Any] = read_document(GOOD).value | {"name": "here"}
    assert recipe_from_mapping(value).recipe.conditions["warmer"].interventions[0].options == {"coefficient": 4.0}
    value["seed"] = float("nan")
    with pytest.raises(RecipeError, match=r"seed: \.nan is not a finite number"):
        recipe_from_mapping(value)


BAD = """\
name: two words
sed: 42
model: {sorce: x, dtype: float33, batch_tokens: 0}
data:
  warm: {inline: [a, 5], split: {trian: 4}}
  cold: {inline: [b], file: b.txt}
  "a b": {inline: [c], split: {}}
directions:
  warmth: {estimator: m, positive: warm, negative: cold, site: blocks.1.resid_pree, positions: lsat}
  part: {estimator: m}
  both: {file: d.safetensors, estimator: mean_difference}
conditions:
  warmer:
    - {a: 1, b: 2}
    - add: {direction: 5, positions: {}}
    - ablate: 7
  dose:
    interventions: [add]
    sweep: {coefficient: [1, x, true]}
  two:
    interventions: [add]
    sweep: {a: [1], b: [2]}
  none: []
evaluate:
  - refusal_score: {tokens: [x]}
control: 5
report: {samples: {data: x, n: 1.5}}
"""


def test_every_problem_is_told_at_once_with_its_line_and_the_nearest_name(tmp_path: Path) -> None:
    found = problems(write(tmp_path, BAD))
    expected = [
        (1, "name", "'two words' is not a name"),
        (2, "sed", "Did you mean 'seed'?"),
        (3, "model.sorce", "Did you mean 'source'?"),
        (3, "model.dtype", "expected 'auto', 'float32', 'bfloat16' or 'float16', not \"float33\""),
        (3, "model.batch_tokens", "expected a number of at least 1, not 0"),
        (5, "data.warm.inline.1", "expected text or a mapping (key: value), not 5; put it in quotes"),
        (5, "data.warm.split.trian", "Did you mean 'train'?"),
        (6, "data.cold", "expected one of file, inline, hub, completions and of, not file and inline"),
        (7, "data.a b", "is not a name"),
        (7, "data.a b.split", "at least one of train, validation and test"),
        (9, "directions.warmth.site", "Did you mean 'resid_pre'"),
        (9, "directions.warmth.positions", "Did you mean 'last'?"),
        (10, "directions.part", "expected positive, negative, site as well"),
        (11, "directions.both", "has its own estimator"),
        (14, "conditions.warmer.0", "expected one plugin with its options"),
        (15, "conditions.warmer.1.add.direction", "expected text, not 5"),
        (15, "conditions.warmer.1.add.positions", "expected positions"),
        (16, "conditions.warmer.2.ablate", "expected a mapping (key: value), not a number"),
        (19, "conditions.dose.sweep.coefficient.1", 'expected a number, not "x"'),
        (19, "conditions.dose.sweep.coefficient.2", "expected a number, not true"),
        (22, "conditions.two.sweep", "expected one option"),
        (23, "conditions.none", "expected a list of interventions, a system_prompt, or both"),
        (25, "evaluate.0.refusal_score.data", "required"),
        (26, "control", "expected a mapping (key: value), not 5"),
        (27, "report.samples.n", "expected a whole number, not 1.5"),
    ]
    for line, where, part in expected:
        assert any((line, where) == item[:2] and part in item[2] for item in found), (line, where, part, found)
    assert len(found) == len(expected)
    assert [item[0] for item in found] == sorted(item[0] or 0 for item in found)


def test_overrides_reach_keys_and_items_and_take_values_as_yaml(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    settings = ["model.dtype=bfloat16", "seed=7", "conditions.warmer.0.add.coefficient=-2e-1", "report.samples.data=x"]
    items = ["conditions.dose.interventions[-1].add.positions=[-1]", "evaluate.1.refusal_score.name=again"]
    recipe = load_recipe(path, [*settings, *items]).recipe
    assert [item.name for item in recipe.evaluate] == ["refusal_score", "again"]
    assert (recipe.model.dtype, recipe.seed) == ("bfloat16", 7)
    assert recipe.conditions["warmer"].interventions[0].options["coefficient"] == -0.2
    assert recipe.conditions["dose"].interventions[0].positions == "-1"
    assert recipe.report.samples is not None and recipe.report.samples.data == "x"
    assert load_recipe(path, ["model.source=a=b"]).recipe.model.source == "a=b"


@pytest.mark.parametrize(
    ("override", "where", "part"),
    [
        ("seed", "--set seed", "expected key=value"),
        ("=5", "--set =5", "expected key=value"),
        ("\udcff=1", "--set \udcff=1", "expected key=value"),
        ("a..b=5", "--set a..b=5", "expected key=value"),
        ("seed=[1", "--set seed=[1", "not YAML"),
        ("seed=.nan", "--set seed=.nan", "not a finite number"),
        ("seed=x", "--set seed", 'expected a whole number, not "x"'),
        ("model.dtyp=auto", "--set model.dtyp", "Did you mean 'dtype'?"),
        ("model.source.x=5", "--set model.source.x=5", "nothing can be set inside it"),
        (
            "conditions.warmer.7.add.coefficient=2",
            "--set conditions.warmer.7.add.coefficient=2",
            "items 0 to 1, not '7'",
        ),
        ("evaluate.x=2", "--set evaluate.x=2", "items 0 to 1, not 'x'"),
    ],
)
def test_a_bad_override_is_named_as_it_was_given(tmp_path: Path, override: str, where: str, part: str) -> None:
    ((line, found, message),) = problems(write(tmp_path, GOOD), override)
    assert (line, found) == (None, where)
    assert part in message


@pytest.mark.parametrize(
    ("data", "line", "part"),
    [
        (b"", None, "the file is empty"),
        (b"# nothing\n", None, "the file is empty"),
        (b"- a\n", None, "the file is a list"),
        (b"just words\n", None, "the file is a text"),
        (b"a: 1\nb: \xff\xfe\n", 2, "not UTF-8"),
        (b"model:\n\tsource: x\n", 2, "a tab"),
    ],
)
def test_files_that_hold_no_recipe_say_why(tmp_path: Path, data: bytes, line: int | None, part: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(data)
    ((found, _, message),) = problems(path)
    assert found == line
    assert part in message


def test_a_missing_file_and_a_folder_say_what_there_is(tmp_path: Path) -> None:
    write(tmp_path, GOOD, "other.yaml")
    assert "It holds other.yaml" in problems(tmp_path)[0][2]
    assert "no such file" in problems(tmp_path / "missing.yaml")[0][2]


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load_recipe(path).recipe.seed == 42


def test_shipped_recipes_are_found_by_name_and_a_file_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "recipes"
    (folder / "families").mkdir(parents=True)
    (folder / "data").mkdir()
    write(folder, GOOD, "first.yaml")
    write(folder, GOOD, "families/tiny.yaml")
    write(folder, "x: 1", "data/words.yaml")
    monkeypatch.setattr("steerkit.recipe.shipped.shipped_folder", lambda: folder)
    assert sorted(shipped_recipes()) == ["families/tiny", "first"]
    assert load_recipe("first").source == folder / "first.yaml"
    assert load_recipe("tiny").source == load_recipe("families/tiny").source
    with pytest.raises(RecipeError, match="Did you mean 'first'"):
        load_recipe("frist")
    monkeypatch.chdir(tmp_path)
    write(tmp_path, GOOD, "first")
    assert load_recipe("first").source == Path("first")


ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    "",
    "x",
    "all",
    "warm.train",
    "blocks.0.resid_pre",
    [],
    {},
    [[]],
    [None],
    ["a"],
]
ODD += [
    {"add": None},
    {"add": {}},
    {"": 1},
    {"file": "x"},
    {"train": 1},
    {"coefficient": [1]},
    10**30,
    10**400,
    "\u2028",
]


def keys(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in inner for found in keys(item, (*path, key)))]


@given(data=st.data())
def test_whatever_stands_at_a_key_is_a_recipe_or_a_list_of_problems(data: st.DataObject) -> None:
    value = {"name": "n", **read_document(GOOD).value}
    path = data.draw(st.sampled_from([path for path in keys(value) if path]))
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = data.draw(st.sampled_from(ODD))
    try:
        recipe = recipe_from_mapping(value)
    except RecipeError as error:
        assert error.problems
    else:
        assert recipe_from_mapping(recipe.resolved()).resolved() == recipe.resolved()
