"""YAML text to plain values, with the line of every key. Nothing that is read can execute.

The rules are those of YAML 1.2, so that ``no`` is a word and ``1e-4`` a number, and PyYAML's safe
constructors alone: an unknown tag is an error. What JSON can't hold (dates, NaN) isn't accepted either.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import yaml

from steerkit.errors import Problem

Path: TypeAlias = tuple[str | int, ...]

HALF: Final = "holds half a character (a lone surrogate, such as \\ud83d); write whole characters"

_PAIR: Final = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_MOST_VALUES: Final = 200_000
_LARGEST: Final = 10**300
_FLOAT: Final = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
_RULES: Final = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789")),
)


class _Plain:
    """The plain values of YAML 1.2, for a safe loader."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML's way; its own rules are left out)

    def plain(self, node: yaml.ScalarNode) -> Any:
        """The value of a scalar."""
        if node.tag == "tag:yaml.org,2002:int":
            # YAML 1.1 would read 010 as eight.
            return int(node.value)
        if node.tag == "tag:yaml.org,2002:float" and "." not in node.value:
            return float(node.value)
        return self.construct_object(node)  # type: ignore[attr-defined]


class _Loader(_Plain, yaml.SafeLoader):
    """Says what is wrong with a text in the words that problems are made of."""


class _QuickLoader(_Plain, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The same with libyaml, where PyYAML was built with it: reads in a tenth of the time."""


class _Dumper(yaml.SafeDumper):
    """Quotes whatever YAML 1.1 or 1.2 would not read as text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in _RULES:
    _whole = re.compile(rf"(?:{_pattern})\Z")
    _Loader.add_implicit_resolver(_tag, _whole, _first)
    _QuickLoader.add_implicit_resolver(_tag, _whole, _first)
    _Dumper.add_implicit_resolver(_tag, _whole, _first)


@dataclass(frozen=True)
class Document:
    """A YAML document as plain values.

    Args:
        value: mappings, lists, texts, numbers, booleans and None.
        lines: from the path of each key and list item to its line, counted from 1.
        problems: what is wrong with it.
        lost: paths at which the value isn't what was written, because of a problem.
    """

    value: Any
    lines: Mapping[Path, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    lost: frozenset[Path] = frozenset()


def read_document(text: str) -> Document:
    """Read YAML text. Problems are returned, not raised, so that a caller can add its own."""
    try:
        return _built(_QuickLoader(text))
    except (yaml.YAMLError, ValueError, RecursionError):
        pass  # whatever it is, the other loader says it in words that are known
    try:
        return _built(_Loader(text))
    except yaml.MarkedYAMLError as error:
        return Document(None, {}, (_syntax_problem(error, text),))
    except (yaml.YAMLError, ValueError) as error:
        return Document(None, {}, (Problem(f"not YAML: {' '.join(str(error).split())}"),))
    except RecursionError:
        return Document(None, {}, (Problem("nested too deeply"),))


def _built(loader: _Loader | _QuickLoader) -> Document:
    node = loader.get_single_node()
    if node is None:
        return Document(None)
    builder = _Builder(loader)
    value = builder.build(node, ())
    return Document(value, builder.lines, tuple(builder.problems), frozenset(builder.lost))


def write_document(value: Any) -> str:
    """Write plain values as YAML that ``read_document`` (and any YAML 1.1 reader) reads back as the same values."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def is_whole(text: str) -> bool:
    """Whether a text holds whole characters only: an escape such as ``\\ud83d`` alone is half of one."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def with_whole_pairs(text: str) -> str:
    """A text whose characters that were written as two halves, as JSON writes ``\\ud83d\\ude00``, are one each."""
    if is_whole(text):
        return text
    return _PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)


def dotted(path: Path) -> str:
    """The path as messages and ``--set`` write it: ``conditions.warmer.0.add``."""
    return ".".join(str(part) for part in path)


class _Builder:
    """Builds values from nodes and notes the line of each."""

    def __init__(self, loader: _Loader | _QuickLoader) -> None:
        self.loader = loader
        self.lines: dict[Path, int] = {}
        self.problems: list[Problem] = []
        self.lost: set[Path] = set()
        self._open: set[int] = set()
        self._left = _MOST_VALUES

    def build(self, node: yaml.Node, path: Path) -> Any:
        """Return the value of a node."""
        self.lines.setdefault(path, node.start_mark.line + 1)
        self._left -= 1
        if id(node) in self._open or self._left < 0:
            raise yaml.constructor.ConstructorError(
                None, None, "aliases that hold themselves, or too many values", node.start_mark
            )
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if node.tag not in ("tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"):
            self._complain(node, path, f"tag {node.tag!r} is never read; write plain values")
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
            return {key: self.build(item, (*path, key)) for key, item in self._items(node, path)}
        finally:
            self._open.discard(id(node))

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        value = self.loader.plain(node)
        if isinstance(value, str):
            value = with_whole_pairs(value)
        if isinstance(value, float) and not math.isfinite(value):
            self._complain(node, path, f"{node.value} is not a finite number")
            return 0.0
        if isinstance(value, str) and not is_whole(value):
            self._complain(node, path, HALF)
            return ""
        if isinstance(value, int) and abs(value) > _LARGEST:
            self._complain(node, path, "a number of more digits than anything here can hold; put text in quotes")
            return 0
        if not isinstance(value, (str, int, float, bool, type(None))):
            self._complain(
                node, path, f"a value of type {type(value).__name__} means nothing here; use text or numbers"
            )
            return None
        return value

    def _items(self, node: yaml.Node, path: Path) -> Iterator[tuple[str, yaml.Node]]:
        first: dict[str, int] = {}
        for key_node, item in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._complain(key_node, path, "a key must be a word, not a list or a mapping")
                continue
            key = with_whole_pairs(key_node.value)
            if not is_whole(key):
                self._complain(key_node, path, f"a key {HALF}")
                continue
            here = (*path, key)
            if key in first:
                self._complain(key_node, here, f"key {key!r} appears twice (first on line {first[key]})")
                continue
            first[key] = line
            self.lines[here] = line
            yield key, item

    def _complain(self, node: yaml.Node, path: Path, message: str) -> None:
        self.problems.append(Problem(message, dotted(path), node.start_mark.line + 1))
        self.lost.add(path)


def _syntax_problem(error: yaml.MarkedYAMLError, text: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else None
    what = " ".join(part for part in (error.context, error.problem) if part)
    here = text.splitlines()[mark.line] if mark and mark.line < len(text.splitlines()) else ""
    if "\t" in here[: len(here) - len(here.lstrip())] or "'\\t'" in what:
        return Problem("a tab: YAML is indented with spaces only", line=line)
    if "expected a single document" in what:
        return Problem("a second document begins (---); a recipe is one document", line=line)
    if "could not determine a constructor" in what:
        return Problem("a tag that begins with ! is never read; write plain values", line=line)
    where = f", column {mark.column + 1}" if mark else ""
    return Problem(f"not YAML{where}: {what}", line=line)
