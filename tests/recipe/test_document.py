"""YAML as recipes are read: YAML 1.2's plain values, lines for every key, and nothing that executes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.recipe import document as reading
from steerkit.recipe.document import read_document, write_document


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("1e-4", 1e-4),
        ("+1.5E3", 1500.0),
        (".5", 0.5),
        ("010", 10),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ("!!str 1", "1"),
    ],
)
def test_plain_values_are_those_of_yaml_1_2(text: str, value: object) -> None:
    document = read_document(f"key: {text}")
    assert not document.problems
    assert document.value == {"key": value}
    assert type(document.value["key"]) is type(value)


def test_every_key_and_item_has_its_line() -> None:
    document = read_document("a: 1\nb:\n  - x\n  - c: 2\n\n    d: {e: [3]}\n")
    assert document.lines[("a",)] == 1
    assert document.lines[("b",)] == 2
    assert document.lines[("b", 1)] == 4
    assert document.lines[("b", 1, "d")] == 6
    assert document.lines[("b", 1, "d", "e", 0)] == 6


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "key 'a' appears twice (first on line 1)"),
        ("x: {a: 1, a: 1}\n", 1, "appears twice"),
        ("a: 1\nb: .nan\n", 2, ".nan is not a finite number"),
        ("a: -.inf\n", 1, "-.inf is not a finite number"),
        ("a: 1e999\n", 1, "1e999 is not a finite number"),
        ("a:\n\tb: 1\n", 2, "a tab: YAML is indented with spaces only"),
        ("a: 1\n--- \nb: 2\n", 2, "a second document begins"),
        ("a: !!python/object/apply:os.getcwd []\n", 1, "never read"),
        ("a: !!python/name:os.getcwd\n", 1, "never read"),
        ("a: !!set {x}\n", 1, "never read"),
        ("a: !!timestamp 2024-01-01\n", 1, "type date means nothing here"),
        ("a: [1, 2\n", 2, "not YAML"),
        ("a: &loop [*loop]\n", 1, "aliases that hold themselves"),
        ("? [1]\n: 2\n", 1, "a key must be a word"),
    ],
)
def test_what_is_wrong_has_its_line(text: str, line: int, message: str) -> None:
    (problem,) = read_document(text).problems
    assert problem.line == line
    assert message in problem.message


def test_aliases_that_would_grow_without_bound_are_refused() -> None:
    layers = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    layers += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    (problem,) = read_document("\n".join(layers)).problems
    assert "too many values" in problem.message


def test_deep_nesting_and_control_characters_are_problems_and_not_crashes() -> None:
    assert read_document("[" * 5000).problems
    assert read_document("a: \x01").problems
    assert read_document(f"a: {'9' * 5000}").problems


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Co", "Cn"))),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcno01.-: ", max_size=6), inner, max_size=4),
    max_leaves=12,
)


@given(PLAIN)
def test_what_is_written_is_read_back_as_the_same_values(value: Any) -> None:
    document = read_document(write_document({"key": value}))
    assert not document.problems
    assert document.value == {"key": value}
    assert repr(document.value["key"]) == repr(value)


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml")), ids=lambda p: p.stem)
def test_both_loaders_read_a_recipe_alike(path: Path) -> None:
    text = path.read_text("utf-8")
    quick, slow = (reading._built(loader(text)) for loader in (reading._QuickLoader, reading._Loader))
    assert quick == slow and not quick.problems


@given(PLAIN)
def test_both_loaders_read_what_is_written_alike(value: Any) -> None:
    text = write_document(value)
    assert reading._built(reading._QuickLoader(text)) == reading._built(reading._Loader(text))


def test_what_the_quick_loader_refuses_is_said_by_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a: [1, 2\nb: 3\n"
    said = read_document(text).problems
    monkeypatch.setattr(reading, "_QuickLoader", reading._Loader)
    assert said == read_document(text).problems and said


def test_two_halves_of_a_character_are_joined_and_one_alone_is_told() -> None:
    found = read_document(r'{"a": "x\ud83d\ude00y", "\ud83d\ude00": 1, "b": "\ud83d", "c": "\ude00\ud83d"}')
    assert found.value == {"a": "x😀y", "😀": 1, "b": "", "c": ""}
    assert [(problem.where, "half a character" in problem.message) for problem in found.problems] == [
        ("b", True),
        ("c", True),
    ]
