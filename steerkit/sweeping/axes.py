"""What is swept: settings with several values each, and the product of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

from steerkit.artifacts.sweeps import value_text
from steerkit.errors import Problem, SteerkitError, counted
from steerkit.recipe.document import read_document

MOST: Final = 1000
"""Runs of a sweep: more are as a rule a slip of the pen."""
_OPENING, _CLOSING, _QUOTES = "[{(", "]})", "\"'"
_EXAMPLE: Final = "--over seed=1,2,3"


@dataclass(frozen=True)
class Axis:
    """A setting that is swept.

    Args:
        key: dotted, as ``--set`` takes it.
        texts: its values in YAML, in order.
        values: what these texts say.
    """

    key: str
    texts: tuple[str, ...]
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Point:
    """One combination of values.

    Args:
        settings: the values by key.
        overrides: the same as settings that are laid over the recipe.
    """

    settings: Mapping[str, Any]
    overrides: tuple[str, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """Its values, as a command line has them."""
        return tuple(map(value_text, self.settings.values()))


def read_axes(over: Sequence[str]) -> tuple[list[Axis], list[Problem]]:
    """Axes as a command line writes them: ``model.source=a,b``; a comma within brackets or quotes parts nothing."""
    axes, problems = [], []
    for text in over:
        key, equals, rest = text.partition("=")
        where = f"--over {text}"
        if not equals or not key.strip():
            problems.append(Problem(f"expected a dotted key with its values, as in {_EXAMPLE}", where))
            continue
        texts = [one.strip() for one in _parted(rest)]
        if not all(texts):
            lacks = "no value" if len(texts) == 1 else "an empty value"
            problems.append(Problem(f'{lacks}; write null for none, or "" for an empty text', where))
            continue
        documents = [read_document(one) for one in texts]
        problems += [Problem(one.message, where) for document in documents for one in document.problems]
        if not any(document.problems for document in documents):
            axes.append(Axis(_normal(key), tuple(texts), tuple(document.value for document in documents)))
    return axes, [*problems, *_twice(axes)]


def axes_of(over: Mapping[str, Iterable[Any]]) -> tuple[list[Axis], list[Problem]]:
    """Axes as Python has them, values by key.

    Raises:
        SteerkitError: for what is no mapping of settings to lists of plain values.
    """
    if not isinstance(over, Mapping):
        raise SteerkitError('over is a mapping of settings to their values, such as {"seed": [1, 2, 3]}.')
    axes, problems = [], []
    for key, values in over.items():
        if not isinstance(key, str) or isinstance(values, (str, Mapping)) or not isinstance(values, Iterable):
            raise SteerkitError(f'over[{key!r}] is a list of values, as in {{"seed": [1, 2, 3]}}.')
        listed = list(values)
        if not listed:
            problems.append(Problem("has no value", f"over {key}"))
            continue
        try:
            texts = tuple(json.dumps(one, ensure_ascii=False, allow_nan=False) for one in listed)
        except (TypeError, ValueError):
            raise SteerkitError(f"over[{key!r}] holds plain values: texts, finite numbers, lists, mappings.") from None
        axes.append(Axis(_normal(key), texts, tuple(json.loads(one) for one in texts)))
    return axes, [*problems, *_twice(axes)]


def points_of(axes: Sequence[Axis]) -> list[Point]:
    """Every combination; the values of the last setting change first."""
    return [
        Point(
            {axis.key: axis.values[at] for axis, at in zip(axes, places, strict=True)},
            tuple(f"{axis.key}={axis.texts[at]}" for axis, at in zip(axes, places, strict=True)),
        )
        for places in product(*(range(len(axis.values)) for axis in axes))
    ]


def faults(axes: Sequence[Axis], overrides: Iterable[str]) -> list[Problem]:
    """What is wrong with all of them together, and with settings beside them."""
    keys = [axis.key for axis in axes]
    found = []
    if not keys:
        found.append(Problem(f"nothing to sweep over: name a setting with its values, as in {_EXAMPLE}"))
    for text in overrides:
        key = _normal(text.partition("=")[0])
        found += [Problem(f"is swept with --over {one} too", f"--set {text}") for one in keys if _touch(key, one)]
    size = 1
    for axis in axes:
        size *= len(axis.values)
    if size > MOST:
        found.append(Problem(f"{counted(size, 'run')} are more than a sweep takes, which is {MOST:,}"))
    return found


def _parted(text: str) -> Iterator[str]:
    """A text cut at its commas, but for those within brackets or quotes."""
    depth, quote, begin = 0, "", 0
    for at, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote and not (quote == '"' and text[at - 1] == "\\") else quote
        elif letter in _QUOTES and (depth or not text[begin:at].strip()):  # within a word it is an apostrophe
            quote = letter
        elif letter in _OPENING:
            depth += 1
        elif letter in _CLOSING:
            depth -= 1
        elif letter == "," and depth <= 0:
            yield text[begin:at]
            begin = at + 1
    yield text[begin:]


def _normal(key: str) -> str:
    """A key with items of lists behind dots, as ``--set`` understands both: ``evaluate[0].data``."""
    return re.sub(r"\[(-?\d+)\]", r".\1", key.strip())


def _twice(axes: Sequence[Axis]) -> list[Problem]:
    """Settings that two axes have, one within the other, and values that stand twice."""
    found = []
    for at, axis in enumerate(axes):
        for other in axes[:at]:
            if axis.key == other.key:
                found.append(Problem("is swept twice: name all of its values at once", f"--over {axis.key}"))
            elif _touch(axis.key, other.key):
                found.append(Problem(f"lies within what --over {other.key} sets, or holds it", f"--over {axis.key}"))
        told = [json.dumps(value, sort_keys=True) for value in axis.values]
        twice = [axis.values[place] for place, text in enumerate(told) if text in told[:place]]
        found += [
            Problem(f"{value_text(value)} is there twice: name each value once", f"--over {axis.key}")
            for value in twice[:1]
        ]
    return found


def _touch(one: str, other: str) -> bool:
    """Whether two settings are one, or one is within the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")
