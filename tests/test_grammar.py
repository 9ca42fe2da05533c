"""Messages with counts: of one thing in the singular, of several in the plural, and all of them by one helper."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from steerkit.engine.prompts.chat import Rendered
from steerkit.engine.prompts.fitting import require_fitting
from steerkit.errors import DataError, RecipeError, agreeing, counted

ROOT = Path(__file__).parents[1]
SOURCES = [*(ROOT / "steerkit").rglob("*.py"), *(ROOT / "plugins").glob("steerkit_*/*.py")]

NOUNS = frozenset(
    [
        *(
            "tokens",
            "examples",
            "prompts",
            "rows",
            "directions",
            "texts",
            "layers",
            "samples",
            "completions",
            "entries",
        ),
        *(
            "vectors",
            "columns",
            "parameters",
            "heads",
            "blocks",
            "passes",
            "sites",
            "conditions",
            "candidates",
            "bytes",
        ),
        *(
            "problems",
            "conversations",
            "files",
            "comparisons",
            "values",
            "evaluators",
            "turns",
            "pairs",
            "threads",
            "questions",
            "parts",
        ),
        *("refusals", "controls", "outputs", "elements", "numbers", "places", "components", "differences"),
    ]
)
LARGE = frozenset({"size", "vocabulary"})
"""Numbers that are never one: a vocabulary's."""


def bare_counts(path: Path) -> Iterator[str]:
    """Places at which a number in braces stands right before a plural."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if not isinstance(node, ast.JoinedStr):
            continue
        for value, behind in zip(node.values, node.values[1:], strict=False):
            if not isinstance(value, ast.FormattedValue) or not isinstance(behind, ast.Constant):
                continue
            words = str(behind.value).split()
            if not str(behind.value).startswith(" ") or not words or words[0].strip(".,;:)") not in NOUNS:
                continue
            source = ast.unparse(value.value)
            name = source.rpartition(".")[2]
            if source.startswith(("agreeing(", "joined(")) or "join(" in source:
                continue  # a word, or a list of numbers
            if name.isupper() or name.strip("_").isupper() or source in LARGE:
                continue  # a constant, which is known to be more than one
            yield f"{path.relative_to(ROOT)}:{node.lineno}: {{{source}}} {words[0]}"


def endings(path: Path) -> Iterator[str]:
    """Places at which an s is put behind a word, or left out, by hand."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.IfExp):
            ends = [node.body, node.orelse]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            ends = [node.left, node.right]
        else:
            continue
        if any(isinstance(one, ast.Constant) and one.value == "s" for one in ends):
            yield f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"


def test_every_count_is_said_by_the_helper() -> None:
    found = [place for path in SOURCES for place in (*bare_counts(path), *endings(path))]
    assert not found, "\n".join(found)


def test_nobody_leaves_the_plural_open() -> None:
    """As in "1 character(s)"."""
    nodes = (node for path in SOURCES for node in ast.walk(ast.parse(path.read_text("utf-8"))))
    texts = (node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
    assert not [text for text in texts if re.search(r"[a-z]\(e?s\)", text)]


def test_the_helper() -> None:
    assert [counted(n, "token") for n in (0, 1, 2)] == ["0 tokens", "1 token", "2 tokens"]
    assert counted(1, "entry", "entries") == "1 entry" and counted(3, "entry", "entries") == "3 entries"
    assert counted(12345, "byte") == "12,345 bytes" and counted(2.5, "alarm", form="g") == "2.5 alarms"
    assert [agreeing(n) for n in (0, 1, 2)] == ["are", "is", "are"]
    assert [agreeing(n, "has", "have") for n in (1, 2)] == ["has", "have"]


@pytest.mark.parametrize(
    ("tokens", "more", "told"),
    [
        (29, 0, "A prompt of 29 tokens is more than the model's context of 16."),
        (29, 4, "A prompt of 29 tokens and 4 to generate are more than the model's context of 16."),
        (1, 16, "A prompt of 1 token and 16 to generate are more than the model's context of 16."),
    ],
)
def test_a_prompt_that_is_too_long(tokens: int, more: int, told: str) -> None:
    with pytest.raises(DataError) as caught:
        require_fitting([Rendered((1,) * tokens)], 16, more)
    assert str(caught.value).startswith(told)


def test_one_problem_is_one() -> None:
    from steerkit.errors import Problem

    assert str(RecipeError([Problem("a")])).startswith("recipe: 1 problem\n")
    assert str(RecipeError([Problem("a"), Problem("b")])).startswith("recipe: 2 problems\n")
