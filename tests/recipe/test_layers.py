"""Recipes that extend others, and their profiles: what is merged, and where a problem is said to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.errors import RecipeError
from steerkit.recipe import Draft, load_recipe, recipe_from_mapping
from steerkit.recipe.document import read_document, write_document
from steerkit.recipe.layers import lay

BASE = """\
name: base
seed: 4
model: {source: "tiny-random:llama", dtype: float32}
data:
  warm: {file: warm.txt, split: {train: 4, test: 2}}
  cold: {inline: [c1, c2, c3, c4, c5, c6], split: {train: 4, test: 2}}
directions:
  warmth: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}
conditions:
  dose: [ {add: {direction: warmth, coefficient: 2}} ]
evaluate:
  - refusal_score: {data: warm.test, tokens: [x]}
profiles:
  small: {control: {random_directions: 1}, data: {warm: {split: {train: 2}}}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "base.yaml").write_text(BASE, "utf-8")
    (tmp_path / "below" / "warm.txt").write_text("\n".join(f"w{number}" for number in range(6)), "utf-8")
    return tmp_path


def child(folder: Path, text: str, profile: str | None = None, *overrides: str) -> Draft:
    (folder / "child.yaml").write_text("extends: below/base.yaml\n" + text, "utf-8")
    return load_recipe(folder / "child.yaml", overrides, profile)


def test_mappings_are_merged_and_everything_else_is_replaced(folder: Path) -> None:
    recipe = child(
        folder,
        "data:\n  cold: {inline: [d1, d2, d3], split: {train: 2, test: 1}}\n"
        "conditions:\n  more: [ {add: {direction: warmth}} ]\n",
    ).recipe
    assert (recipe.name, recipe.seed, recipe.model.dtype) == ("child", 4, "float32")
    assert recipe.data["cold"].inline == ("d1", "d2", "d3")
    assert list(recipe.conditions) == ["dose", "more"]


def test_null_takes_away_what_the_file_below_gives(folder: Path) -> None:
    recipe = child(
        folder, "model: {dtype: null}\nconditions: {dose: null, more: [ablate: {direction: warmth}]}\n"
    ).recipe
    assert recipe.model.dtype == "auto"
    assert list(recipe.conditions) == ["more"]


def test_files_are_relative_to_the_file_that_names_them(folder: Path) -> None:
    draft = child(folder, "")
    name = draft.recipe.data["warm"].file
    assert name is not None
    assert draft.path_of(name) == (folder / "below" / "warm.txt").resolve()
    (folder / "warm.txt").write_text("mine", "utf-8")
    own = child(folder, "data: {warm: {file: warm.txt}}")
    assert own.path_of(own.recipe.data["warm"].file or "") == (folder / "warm.txt").resolve()


def test_files_that_a_profile_names_are_relative_to_its_file_too(folder: Path) -> None:
    base = folder / "below" / "base.yaml"
    base.write_text(BASE + "  other: {data: {cold: {inline: null, file: warm.txt}}}\n", "utf-8")
    draft = child(folder, "", "other")
    name = draft.recipe.data["cold"].file
    assert name is not None
    assert draft.path_of(name) == (folder / "below" / "warm.txt").resolve()


def test_profiles_of_nothing_are_none_and_a_profile_extends_nothing(folder: Path) -> None:
    assert child(folder, "profiles: null\n").profiles == ()
    (told,) = problems(folder, "profiles: {small: {extends: other.yaml}}\n", "small")
    assert "extends belongs to the file, not to one of its profiles" in told


def test_a_profile_goes_over_the_file_and_overrides_over_the_profile(folder: Path) -> None:
    text = "seed: 5\nprofiles: {small: {seed: 6}, none: {control: false}}\n"
    assert child(folder, text).recipe.control.random_directions == 5
    assert child(folder, text).profiles == ("small", "none")
    small = child(folder, text, "small")
    assert (small.recipe.seed, small.recipe.control.random_directions, small.profiles) == (6, 1, ())
    split = small.recipe.data["warm"].split
    assert split is not None
    assert split.sizes == {"train": 2, "test": 2}
    assert child(folder, text, "none").recipe.control.random_directions == 0
    assert child(folder, text, "small", "seed=7").recipe.seed == 7


def test_the_resolved_recipe_needs_neither_file(folder: Path) -> None:
    draft = child(folder, "seed: 5\n", "small")
    (folder / "alone").mkdir()
    (folder / "alone" / "whole.yaml").write_text(draft.to_yaml(), "utf-8")
    (folder / "below" / "base.yaml").unlink()
    assert load_recipe(folder / "alone" / "whole.yaml").resolved() == draft.resolved()


def problems(folder: Path, text: str, profile: str | None = None) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        child(folder, text, profile)
    return [str(problem) for problem in caught.value.problems]


def test_a_problem_names_the_file_line_and_key_where_it_was_written(folder: Path) -> None:
    base = folder / "below" / "base.yaml"
    base.write_text(BASE.replace("seed: 4", "seed: x").replace("random_directions: 1", "random_direction: 1"), "utf-8")
    assert problems(folder, "") == [f'{base}, line 2, seed: expected a whole number, not "x"']
    (told,) = problems(folder, "seed: 3\n", "small")
    assert told.startswith(f"{base}, line 14, profiles.small.control.random_direction: unknown key")
    (told,) = problems(folder, "seed: y\n")
    assert told == 'line 2, seed: expected a whole number, not "y"'


@pytest.mark.parametrize(
    ("text", "profile", "message"),
    [
        ("profiles: 3", "small", "expected profiles by name"),
        ("profiles: {small: null, other: 3}", "other", "expected profiles by name"),
        ("", "smal", "unknown profile 'smal'. Did you mean 'small'?"),
        ("extend: other.yaml", None, "extend: unknown key"),
        ("model: {extend: other.yaml}", None, "Available: accept_terms"),
    ],
)
def test_what_makes_no_sense_is_told(folder: Path, text: str, profile: str | None, message: str) -> None:
    assert any(message in told for told in problems(folder, text + "\n", profile))


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("extends: [base.yaml]", "expected a recipe's file"),
        ("extends: nowhere.yaml", "isn't there, and no shipped recipe is called so"),
        ("extends: below", "is a folder"),
        ("extends: a.yaml", "a circle of files that extend each other: a.yaml → a.yaml"),
        ("extends: b.yaml", "a circle of files that extend each other: a.yaml → b.yaml → a.yaml"),
        ("extends: empty.yaml", "holds no recipe"),
        ("extends: broken.yaml", "broken.yaml, line 2: not YAML"),
        ("extends: latin.yaml", "not UTF-8"),
    ],
)
def test_what_can_not_be_extended_is_told(folder: Path, written: str, message: str) -> None:
    (folder / "a.yaml").write_text(written + "\n", "utf-8")
    (folder / "b.yaml").write_text("extends: a.yaml\n", "utf-8")
    (folder / "empty.yaml").write_text("", "utf-8")
    (folder / "broken.yaml").write_text("a: [\n", "utf-8")
    (folder / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(folder / "a.yaml")
    assert message in str(caught.value)


def test_a_recipe_of_plain_values_extends_too_and_a_shipped_one_by_name(folder: Path) -> None:
    assert recipe_from_mapping({"name": "own", "extends": "below/base.yaml", "seed": 9}, folder).recipe.seed == 9
    quick = recipe_from_mapping({"name": "own", "extends": "quickstart", "seed": 9})
    assert quick.recipe.model.source == "smollm2-135m-instruct"
    assert all(Path(item.file).is_file() for item in quick.recipe.data.values() if item.file)


plain = st.recursive(
    st.integers() | st.text("ab"),
    lambda inside: st.lists(inside, max_size=2) | st.dictionaries(st.sampled_from("xyz"), inside, max_size=3),
    max_leaves=12,
)
mappings = st.dictionaries(st.sampled_from("xyz"), plain, max_size=3)


def merged(base: Any, own: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(own, dict)):
        return own
    return base | {key: merged(base[key], value) if key in base else value for key, value in own.items()}


@given(mappings, mappings)
def test_layers_equal_a_literal_merge_and_every_value_knows_its_layer(
    base: dict[str, Any], own: dict[str, Any]
) -> None:
    document = read_document(write_document({**base, "profiles": {"p": own}}))
    layered = lay(document, None, Path(), "p")
    assert layered.value == merged(base, own)

    def check(value: Any, path: tuple[str | int, ...]) -> None:
        if path:
            origin = layered.origins[path]
            holder: Any = {**base, "profiles": {"p": own}}
            for part in origin.key:
                holder = holder[part]
            # Where both are mappings the upper one is named, and it holds a part of the value.
            assert holder == value or (isinstance(holder, dict) and holder.items() <= {**value, **holder}.items())
        for key, item in (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        ):
            check(item, (*path, key))

    check(layered.value, ())


def test_a_description_is_of_its_own_file(folder: Path) -> None:
    base = folder / "below" / "base.yaml"
    base.write_text(f"description: What the base asks.\n{BASE}", "utf-8")
    assert load_recipe(base).recipe.description == "What the base asks."
    assert not child(folder, "seed: 5\n").recipe.description, "it need not be so of what extends it"
    assert child(folder, "description: What this asks.\n").recipe.description == "What this asks."
