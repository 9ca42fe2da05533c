"""Calls that can be read: what takes many things takes them by name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST = 7


def too_long(text: str) -> Iterator[str]:
    """Names of functions that take more than so many things by position. Command lines have no positions in Python."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.endswith("_command"):
            taken = [one.arg for one in (*node.args.posonlyargs, *node.args.args) if one.arg not in ("self", "cls")]
            if len(taken) > MOST:
                yield node.name


def test_no_function_takes_more_than_seven_things_by_position() -> None:
    files = [path for room in ("steerkit", "plugins") for path in (ROOT / room).rglob("*.py")]
    assert len(files) > 200
    assert {
        str(path.relative_to(ROOT)): names for path in files if (names := [*too_long(path.read_text("utf-8"))])
    } == {}
    assert [*too_long("def many(a, b, c, d, e, f, g, h): ...")] == ["many"]
    assert [*too_long("class A:\n def few(self, a, b, c, d, e, f, g, *, h): ...")] == []
