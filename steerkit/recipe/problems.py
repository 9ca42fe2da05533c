"""What pydantic finds wrong, in the words of a recipe: expected what, at which key, on which line."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from steerkit.errors import Problem, counted, nearest
from steerkit.recipe.document import Path

ModelT = TypeVar("ModelT", bound=BaseModel)

_EXPECTED: Mapping[str, str] = {
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "tuple": "a list",
    "list": "a list",
    "set": "a list",
    "frozen_set": "a list",
    "dict": "a mapping (key: value)",
    "mapping": "a mapping (key: value)",
    "model": "a mapping (key: value)",
    "none_required": "null",
}
_BOUNDS: Mapping[str, tuple[str, str]] = {
    "greater_than": ("a number above", "gt"),
    "greater_than_equal": ("a number of at least", "ge"),
    "less_than": ("a number below", "lt"),
    "less_than_equal": ("a number of at most", "le"),
}


INTERNAL: Final[dict[str, Any]] = {"internal": True}
"""``json_schema_extra`` of fields that the grammar fills in and nobody writes: messages don't offer them."""
MISSING: Final = "missing"
UNKNOWN: Final = "extra_forbidden"
BAD_KEY: Final = "bad_key"
LACKING: Final = "lacking"
"""A section lacks the fault's ``keys``."""
EXCESS: Final = "excess"
"""The fault's ``keys`` don't belong in their section."""
EXPECTED: Final = "expected"
"""A validator's own error of something else that was ``wanted`` than what was ``given``, which its context holds:
``PydanticCustomError(EXPECTED, "expected {wanted}, not {given}", {"wanted": ..., "given": ...})``."""


@dataclass(frozen=True)
class Fault:
    """What is wrong at one path.

    Args:
        path: within the value that was validated.
        kind: pydantic's type of error, or one of ours.
        message: for the user.
        keys: of the section at ``path``, for ``LACKING`` and ``EXCESS``.
        meant: for an unknown key: the absent one that it is nearest to.
        expected: what was wanted and what was given, each in words, where the message says nothing else.
    """

    path: Path
    kind: str
    message: str
    keys: tuple[str, ...] = ()
    meant: str | None = None
    expected: tuple[str, str] | None = None


def find_faults(model: type[ModelT], value: Any, beside: Iterable[str] = ()) -> tuple[ModelT | None, list[Fault]]:
    """Validate plain values strictly, as JSON: a list may be a tuple, but ``"4"`` is not a number.

    Args:
        model: the pydantic model.
        value: plain values.
        beside: keys that may stand beside those of the model.

    Returns:
        the model and no faults, or None and one fault per path.
    """
    try:
        return model.model_validate_json(json.dumps(value), strict=True), []
    except ValidationError as error:
        return None, faults_of(error, model, value, beside)


def news(faults: Sequence[Fault], *, partial: bool = False) -> list[Fault]:
    """The faults that don't follow from others: what is missing is not told where an unknown key means it.

    Args:
        faults: of one value.
        partial: whether something is known to be left out of the value; then nothing is told to be missing.
    """
    meant = {(*fault.path[:-1], fault.meant) for fault in faults if fault.meant}
    return [fault for fault in faults if not (fault.kind == MISSING and (partial or fault.path in meant))]


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Problems in the order of the file, each once; those that have no line come first, those of other files last."""
    return sorted(dict.fromkeys(problems), key=lambda problem: (problem.file, problem.line or 0, problem.where))


def faults_of(error: ValidationError, model: type[BaseModel], value: Any, beside: Iterable[str] = ()) -> list[Fault]:
    """What pydantic found in a value, one fault per path. See ``find_faults``."""
    beside = tuple(beside)
    found: dict[Path, list[Fault]] = {}
    for detail in error.errors(include_url=False):
        loc = _real(detail, value)
        if detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]:
            continue  # pydantic counts the good items only; the bad ones have their own problems
        fault = _fault(detail, loc, model, value, beside)
        faults = found.setdefault(loc, [])
        if fault.message not in [other.message for other in faults]:
            faults.append(fault)
    for loc in _outdone(found):
        del found[loc]
    return [replace(faults[0], message=_join(faults)) for faults in found.values()]


def _outdone(found: Mapping[Path, Sequence[Fault]]) -> list[Path]:
    """Paths of lists that stand where true or false may too: what is wrong inside such a list says all."""
    return [
        loc
        for loc, faults in found.items()
        if all(_wanted(one.kind) == "bool" for one in faults)
        and any(len(other) > len(loc) and other[: len(loc)] == loc for other in found)
    ]


def _fault(detail: ErrorDetails, loc: Path, model: type[BaseModel], value: Any, beside: tuple[str, ...]) -> Fault:
    kind = detail["type"]
    if kind not in (MISSING, UNKNOWN):
        kind = BAD_KEY if detail["loc"][-1:] == ("[key]",) else kind
        keys, expected = tuple(detail.get("ctx", {}).get("keys", ())), _expected(detail)
        return Fault(loc, kind, _message(detail) if expected is None else _sentence(*expected), keys, None, expected)
    section = _model_at(model, loc[:-1])
    fields = section.model_fields if section else {}
    key = str(loc[-1])
    if kind == MISSING:
        description = fields[key].description if key in fields else None
        return Fault(loc, kind, f"required{f': {description}' if description else ''}")
    fields = {name: info for name, info in fields.items() if info.json_schema_extra != INTERNAL}
    known = [*fields, *(beside if len(loc) == 1 else ())]
    message = f"unknown key. {nearest(key, known, 'key')}" if known else "unknown key: nothing can be set here"
    absent = [name for name in fields if name not in _inside(value, loc[:-1])]
    meant = next(iter(difflib.get_close_matches(key, absent, n=1)), None)
    return Fault(loc, kind, message, meant=meant)


def _inside(value: Any, path: Path) -> Any:
    for part in path:
        value = value[part]
    return value


def _real(detail: ErrorDetails, value: Any) -> Path:
    """The location without the names of union members, which pydantic puts in between."""
    loc: list[str | int] = []
    last = len(detail["loc"]) - 1
    for index, part in enumerate(detail["loc"]):
        inside = (isinstance(value, Mapping) and part in value) or (
            isinstance(value, (list, tuple)) and isinstance(part, int) and part < len(value)
        )
        if inside:
            value = value[part]
        elif not (index == last and detail["type"] == "missing"):
            continue
        loc.append(part)
    return tuple(loc)


def _model_at(model: type[BaseModel], loc: Path) -> type[BaseModel] | None:
    current: Any = model
    for part in loc:
        if isinstance(current, type) and issubclass(current, BaseModel):
            info = current.model_fields.get(str(part))
            current = info.annotation if info else None
        else:
            # One step into Mapping[str, X] or tuple[X, ...].
            inner = [item for item in getattr(current, "__args__", ()) if item is not Ellipsis]
            current = _unwrap(inner[-1]) if inner else None
        current = _unwrap(current)
    if not isinstance(current, type):
        # Of several kinds of value the last that has keys, each perhaps with something said about it.
        each = [getattr(one, "__origin__", one) for one in getattr(current, "__args__", ())]
        current = next((one for one in reversed(each) if isinstance(one, type) and issubclass(one, BaseModel)), None)
    return current if isinstance(current, type) and issubclass(current, BaseModel) else None


def _unwrap(annotation: Any) -> Any:
    """``X | None`` as ``X``."""
    if getattr(annotation, "__origin__", None) is None and type(None) in getattr(annotation, "__args__", ()):
        return next(item for item in annotation.__args__ if item is not type(None))
    return annotation


def _expected(detail: ErrorDetails) -> tuple[str, str] | None:
    """What was wanted and what was given, in words; None for an error that says something else."""
    kind, given, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == EXPECTED:
        return str(context["wanted"]), str(context["given"])
    if kind == "literal_error":
        known = re.findall(r"'([^']*)'", context["expected"])
        close = difflib.get_close_matches(given, known, n=1, cutoff=0.5) if isinstance(given, str) else []
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return str(context["expected"]), f"{_show(given)}{hint}"
    if kind == "finite_number":
        return "a finite number", repr(given)
    if kind == "too_short":
        least = context["min_length"]
        what = "mapping" if isinstance(given, Mapping) else "list"
        return f"a {what} of at least {counted(least, 'item')}", _show(given)
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return f"{words} {context[bound]}", _show(given)
    if (name := _wanted(kind)) is not None:
        quote = "; put it in quotes" if name == "string" and isinstance(given, (int, float)) else ""
        return _EXPECTED[name], f"{_show(given)}{quote}"
    return None


def _sentence(wanted: str, given: str) -> str:
    return f"expected {wanted}, not {given}"


def _message(detail: ErrorDetails) -> str:
    """An error that isn't one of something else expected."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind in (LACKING, EXCESS):
        return str(detail["msg"])
    if kind == "string_too_short":
        return f"expected at least {counted(context.get('min_length', 1), 'character')}"
    return f"{detail['msg']}, not {_show(detail['input'])}"


def _wanted(kind: str) -> str | None:
    """Which of the types in ``_EXPECTED`` an error of pydantic's wanted, or None where it is of another kind."""
    return next(
        (name for name in _EXPECTED if kind in (f"{name}_type", f"{name}_parsing", f"{name}_from_float", name)), None
    )


def _join(faults: Sequence[Fault]) -> str:
    """One sentence of what the members of a union say, each of which expected something else."""
    wanted = [_wanted(fault.kind) for fault in faults]
    # Whoever may write any number may write a whole one.
    dropped = "int" if "float" in wanted else ""
    told = [fault for fault, name in zip(faults, wanted, strict=True) if name != dropped]
    expected = [fault.expected for fault in told if fault.expected is not None]
    if len(expected) == len(told):
        return _sentence(" or ".join(what for what, _ in expected), expected[0][1])
    return "; ".join(fault.message for fault in told)


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else f"{text[:57]}..."
