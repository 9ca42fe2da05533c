"""What pydantic finds wrong, in the words of a recipe: expected what, at which key, on which line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from steerkit.errors import Problem, nearest
from steerkit.recipe.document import Path

Place: TypeAlias = Callable[[Path], tuple[str, int | None]]
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


def validate(model: type[ModelT], value: Any, path: Path, place: Place) -> tuple[ModelT | None, list[Problem]]:
    """Validate plain values strictly, as JSON: a list may be a tuple, but ``"4"`` is not a number.

    Args:
        model: the pydantic model.
        value: plain values.
        path: where they stand in the recipe, as validated.
        place: from such a path to what a message says about it.

    Returns:
        the model and no problems, or None and every problem.
    """
    try:
        return model.model_validate_json(json.dumps(value), strict=True), []
    except ValidationError as error:
        return None, _translate(error, model, value, path, place)


def _translate(error: ValidationError, model: type[BaseModel], value: Any, path: Path, place: Place) -> list[Problem]:
    found: dict[tuple[str, int | None], list[str]] = {}
    for detail in error.errors(include_url=False):
        loc = _real(detail, value)
        if detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]:
            continue  # pydantic counts the good items only; the bad ones have their own problems
        unknown = detail["type"] in ("missing", "extra_forbidden")
        key = str(loc[-1]) if loc else ""
        where, line = place((*path, *loc))
        message = _unknown(detail, key, _model_at(model, loc[:-1])) if unknown else _message(detail)
        messages = found.setdefault((where, line), [])
        if message not in messages:
            messages.append(message)
    return [Problem(_join(messages), where, line) for (where, line), messages in found.items()]


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
    return current if isinstance(current, type) and issubclass(current, BaseModel) else None


def _unwrap(annotation: Any) -> Any:
    """``X | None`` as ``X``."""
    if getattr(annotation, "__origin__", None) is None and type(None) in getattr(annotation, "__args__", ()):
        return next(item for item in annotation.__args__ if item is not type(None))
    return annotation


def _unknown(detail: ErrorDetails, key: str, model: type[BaseModel] | None) -> str:
    fields = model.model_fields if model else {}
    if detail["type"] == "missing":
        description = fields[key].description if key in fields else None
        return f"required{f': {description}' if description else ''}"
    return f"unknown key. {nearest(key, fields, 'key')}" if fields else "unknown key: nothing can be set here"


def _message(detail: ErrorDetails) -> str:
    kind, given = detail["type"], detail["input"]
    context = detail.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"expected {context['expected']}, not {_show(given)}"
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return f"expected {words} {context[bound]}, not {_show(given)}"
    if kind in ("too_short", "string_too_short"):
        return f"expected at least {context.get('min_length')} {'item' if kind == 'too_short' else 'character'}(s)"
    for name, expected in _EXPECTED.items():
        if kind in (f"{name}_type", f"{name}_parsing", f"{name}_from_float", name):
            quote = "; put it in quotes" if name == "string" and isinstance(given, (int, float)) else ""
            return f"expected {expected}, not {_show(given)}{quote}"
    return f"{detail['msg']}, not {_show(given)}"


def _join(messages: list[str]) -> str:
    """One sentence of what the members of a union say, each of which expected something else."""
    if any(message.startswith("expected a number, ") for message in messages):
        messages = [message for message in messages if not message.startswith("expected a whole number, ")]
    heads = [message.partition(", not ") for message in messages]
    if len(messages) > 1 and all(head.startswith("expected ") for head, _, _ in heads):
        return f"{' or '.join([heads[0][0], *(head[9:] for head, _, _ in heads[1:])])}, not {heads[0][2]}"
    return "; ".join(messages)


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else f"{text[:57]}..."
