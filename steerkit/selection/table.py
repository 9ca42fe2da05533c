"""Tables of scores from files: a JSON list of rows, one for each candidate."""

from __future__ import annotations

import difflib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from steerkit.api.files import pipe_fault
from steerkit.errors import SelectionError
from steerkit.selection.rule import Candidate, Rule
from steerkit.types.json_text import RepeatedKeyError, read_json

ERROR_SUFFIX: Final = "_se"
_ABOUT: Final = ("position", "layer", "site", "over", "coefficient", "removed_by")


def read_table(path: Path, rule: Rule) -> list[Candidate]:
    """Read candidates from a JSON list of ``{position, layer, <scores of the rule>}``.

    A score that is null or NaN is NaN; an infinite one (``Infinity``, ``1e999``) removes its candidate as NaN does.
    ``<score>_se`` beside a score is its standard error. ``coefficient`` tells rows of one position and layer apart;
    exact ties go to the one that stands first in the table. Other keys are ignored.

    Raises:
        SelectionError: what can't be read, with the row.
    """
    if (fault := pipe_fault(path)) is not None:
        raise SelectionError(f"{fault}.")
    try:
        rows = read_json(path.read_text("utf-8-sig"))
    except OSError as error:
        raise SelectionError(f"{path} can't be read: {error.strerror or error}.") from error
    except RepeatedKeyError as error:
        raise SelectionError(f"{path}: {error}. Keep one.") from error
    except (ValueError, RecursionError) as error:
        raise SelectionError(f"{path} is not JSON: {error}.") from error
    if not isinstance(rows, list) or not rows:
        what = "an empty list" if rows == [] else f"a {_kind(rows)}"
        raise SelectionError(f"{path} holds {what}; expected a list of candidates: {_example(rule)}.")
    found = [_candidate(row, rule, f"{path}, row {number}") for number, row in enumerate(rows, 1)]
    places = {value: place for place, value in enumerate(dict.fromkeys(one.coefficient for one in found))}
    return [replace(one, order=places[one.coefficient]) for one in found]


def _candidate(row: Any, rule: Rule, where: str) -> Candidate:
    if not isinstance(row, dict):
        raise SelectionError(f"{where}: expected a mapping such as {_example(rule)}, not a {_kind(row)}.")
    for name in ("position", "layer", *rule.scores):
        if name not in row:
            raise SelectionError(f"{where}: {_lacking(name, rule, row)}")
    scores = {name: _number(row[name], name, where) for name in rule.scores}
    written = {name: row.get(f"{name}{ERROR_SUFFIX}") for name in rule.scores}
    errors = {name: _error(value, f"{name}{ERROR_SUFFIX}", where) for name, value in written.items()}
    return Candidate(
        _whole(row["position"], "position", where),
        _whole(row["layer"], "layer", where),
        scores,
        {name: error for name, error in errors.items() if not math.isnan(error)},
        " ".join(text for key in ("over", "site") if isinstance(text := row.get(key), str)),
        removed if isinstance(removed := row.get("removed_by"), str) and removed in rule.says() else None,
        _coefficient(row.get("coefficient"), where),
    )


def _lacking(name: str, rule: Rule, row: dict[str, Any]) -> str:
    """That a row lacks what the rule asks for: it is the table that has another name for it, or is another rule's."""
    own = [str(key) for key in row if key not in _ABOUT and not str(key).endswith(ERROR_SUFFIX)]
    near = difflib.get_close_matches(name, own, n=1)
    rename = f" If {near[0]!r} is it, call it so." if near else ""
    asks = "every candidate has one" if name in _ABOUT else f"the rule is about {', '.join(rule.scores)}"
    return (
        f"there is no {name!r}, and {asks}; it has {', '.join(own) or 'no scores'}.{rename} Of another rule than this "
        "one: name it with --preset, or keep a run's table beside its plan.json, which has its own rule."
    )


def _coefficient(value: Any, where: str) -> float | None:
    number = _number(value, "coefficient", where)
    if math.isinf(number):
        raise SelectionError(f"{where}: coefficient is {number}; expected a finite number.")
    return None if math.isnan(number) else number


def _number(value: Any, name: str, where: str) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SelectionError(f"{where}: {name} is {value!r}; expected a number, or null where there is none.")
    try:
        return float(value)
    except OverflowError:
        raise SelectionError(f"{where}: {name} is too large a number.") from None


def _error(value: Any, name: str, where: str) -> float:
    error = _number(value, name, where)
    if error < 0:
        raise SelectionError(f"{where}: {name} is {error:g}; a standard error is not negative.")
    return error


def _whole(value: Any, name: str, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise SelectionError(f"{where}: {name} is {value!r}; expected a whole number.")
    return value


def _kind(value: Any) -> str:
    return {dict: "mapping", list: "list", str: "text", type(None): "null"}.get(type(value), "number")


def _example(rule: Rule) -> str:
    return "{position: -1, layer: 14, " + ", ".join(f"{name}: …" for name in rule.scores) + "}"
