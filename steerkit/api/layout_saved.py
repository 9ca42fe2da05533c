"""A layout as plain JSON values, and back: field by field, so that nothing is lost and nothing is made up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from steerkit.errors import ArtifactError

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """A dataclass of the contract as a mapping, its tuples as lists; numbers, texts, truth values and None as such."""
    if is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [to_plain(item) for item in value]
    return value


def from_plain(kind: type[T], value: Any, where: str = "layout") -> T:
    """What ``to_plain`` was given, of the class ``kind``.

    Raises:
        ArtifactError: naming the place, where a field is missing, unknown or of another type.
    """
    if not isinstance(value, Mapping):
        raise ArtifactError(f"{where} is {_shown(value)}, not a mapping of the fields of {kind.__name__}.")
    written: Any = kind  # what is cached by a class wants no type variable
    hints = _hints(written)
    odd = sorted(map(str, value.keys() ^ hints.keys()))
    if odd:
        raise ArtifactError(f"{where} doesn't have exactly the fields of {kind.__name__}: {', '.join(odd)} differ.")
    return kind(**{name: _read(hint, value[name], f"{where}.{name}") for name, hint in hints.items()})


@cache
def _hints(kind: Any) -> dict[str, Any]:
    known = get_type_hints(kind)
    return {field.name: known[field.name] for field in fields(kind)}


def _read(hint: Any, value: Any, where: str) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):  # X or None is all that the contract has
        (kind,) = (one for one in inner if one is not NoneType)
        return None if value is None else _read(kind, value, where)
    if origin is Literal and value in inner and isinstance(value, str):
        return value
    if origin is tuple and isinstance(value, list):
        return tuple(_read(inner[0], item, f"{where}[{place}]") for place, item in enumerate(value))
    if is_dataclass(hint) and isinstance(hint, type):
        return from_plain(hint, value, where)
    # True is an int to Python; a whole number may be a factor, and stays what it is.
    if isinstance(hint, type) and type(value) in ((float, int) if hint is float else (hint,)):
        return value
    raise ArtifactError(f"{where} is {_shown(value)}, which no layout has there.")


def _shown(value: Any) -> str:
    return json.dumps(value, default=str)[:40]
