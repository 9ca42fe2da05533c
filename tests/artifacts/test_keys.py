"""Hashes of values: equal for equal ones, another for any other, the same in every process."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import steerkit
from steerkit.api.hookspecs import Needs, NoOptions
from steerkit.artifacts.keys import example_hash, hash_of
from steerkit.artifacts.provenance import code_hash
from steerkit.stages.model import _OURS
from steerkit.types import Positions, Site
from steerkit.types.examples import Example


@dataclass(frozen=True)
class Named:
    what: float
    name: str = field(default="", compare=False)


DIFFERENT: list[Any] = [
    None, True, 1, 1.0, "1", b"1", [1], [1.0], [[1]], {"a": 1}, {"a": 1.0}, {"b": 1}, {"a": 1, "b": 2},
    {"b": 2, "a": 1}, Site("resid_pre", 1), Site("resid_pre", 2), Positions("all"),
     Positions("last"), Needs(), Needs(baseline=True),
    NoOptions(), Named(1.0), Named(2.0), 0.1, 0.1 + 2**-56, {"1": 1}, {1: 1}, frozenset({1}), "", [], {}, 0, -0.0, 0.0,
    Example.of("hi"), "hi", [["a", "b"]], ["a", ["b"]],
]  # fmt: skip


def test_no_two_values_have_one_hash() -> None:
    hashes = [hash_of(value) for value in DIFFERENT]
    twice = [value for value, known in zip(DIFFERENT, hashes, strict=True) if hashes.count(known) > 1]
    assert not twice


def test_what_does_not_count_does_not_count() -> None:
    assert hash_of(Named(1.0, "a")) == hash_of(Named(1.0, "b"))
    assert hash_of((1, 2)) == hash_of([1, 2])
    assert hash_of({1, 2, 3}) == hash_of(frozenset({3, 2, 1}))


def test_all_of_an_example_counts() -> None:
    plain = Example.of("hi")
    others = [
        Example(plain.messages, completion="x"),
        Example(plain.messages, label="x"),
        Example(plain.messages, fields={"a": "x"}),
        Example.of([{"role": "assistant", "content": "hi"}]),
    ]
    assert len({example_hash(one) for one in (plain, *others)}) == 5


def test_a_value_without_a_form_is_refused() -> None:
    with pytest.raises(TypeError, match="no hash"):
        hash_of(object())


def test_another_process_gives_the_same_hash() -> None:
    told = "from steerkit.artifacts.keys import hash_of; print(hash_of({'a': {3, 1, 2}, 'b': (1.5, None)}))"
    for seed in ("1", "2"):
        command = [sys.executable, "-c", told]
        found = subprocess.run(command, env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True)
        assert found.stdout.strip() == hash_of({"a": {1, 2, 3}, "b": [1.5, None]})


def test_code_counts_with_what_it_imports_from_its_package(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "steerkit_test_made_up"
    package.mkdir()
    sources = {
        "__init__": "",
        "a": "from steerkit_test_made_up import b\n",
        "b": "from .c import x\n",
        "c": "x = 1\n",
        "d": "",
    }
    for name, source in sources.items():
        (package / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    first = code_hash("steerkit_test_made_up.a")
    (package / "d.py").write_text("y = 2\n")
    assert code_hash("steerkit_test_made_up.a") == first
    (package / "c.py").write_text("x = 2\n")
    assert code_hash("steerkit_test_made_up.a") not in (first, None)
    assert code_hash("steerkit_test_made_up.nothing") is None


ROOT = Path(steerkit.__file__).parent
NO_OUTPUT = (
    *("errors", "progress", "catalog", "columns", "sizing"),  # what is said, found, shown and refused
    *("bundled", "checkpoints", "sources"),  # where files lie; what they hold has hashes of its own
    # Values, which are in the keys themselves.
    *("plan", "recipe.completions", "recipe.problems", "recipe.rows", "recipe.schema"),
    *(f"artifacts.{name}" for name in ("answers", "files", "keys", "provenance", "samples", "store")),
    *("artifacts.results", "artifacts.direction_entries"),  # made of outputs
)
"""Other modules that are imported where outputs are made, and that none of their bytes depend on."""


def imported(tree: ast.AST) -> Iterator[str]:
    """What a module imports while it runs, wherever it does."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{item.name}" for item in node.names)
        elif isinstance(node, ast.Import):
            yield from (item.name for item in node.names)
        yield from imported(node)


def test_code_that_outputs_are_made_by_is_in_their_keys() -> None:
    """Whoever imports further code of ours there says whether outputs depend on it."""
    known = {name.removesuffix(".py").replace("/", ".") for name in _OURS}
    files = [
        file for name in _OURS for file in ((ROOT / name).rglob("*.py") if (ROOT / name).is_dir() else [ROOT / name])
    ]
    assert all(file.is_file() for file in files) and len(files) > 100
    outside = {
        f"{file.relative_to(ROOT)}: {name}"
        for file in files
        for name in imported(ast.parse(file.read_text("utf-8")))
        if name.startswith("steerkit.")
        and not any(f"{name}.".startswith(f"steerkit.{one}.") for one in (*known, *NO_OUTPUT))
    }
    assert not outside
