"""What a value is, as a hash: equal for equal values in any process, another for any other value.

Whatever a plan is made of can be hashed: plain values, frozen dataclasses, options of plugins, examples. A callable
that belongs to a plugin's spec says nothing that the plugin's code doesn't, and code has a hash of its own.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from enum import Enum
from hashlib import sha256
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel


def hash_of(value: Any) -> str:
    """sha256 of a value, as 64 hex digits.

    Raises:
        TypeError: for a value that has no form that is the same everywhere.
    """
    text = json.dumps(canonical(value), sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()


def example_hash(example: Any) -> str:
    """sha256 of one row of data, a text or an example: all of it counts, its label and other fields included."""
    return hash_of(example)


def canonical(value: Any) -> Any:
    """A value as JSON values, in which nothing that tells two values apart is lost."""
    if value is None or (isinstance(value, (str, bool, int)) and not isinstance(value, Enum)):
        return value
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, bytes):
        return {"bytes": sha256(value).hexdigest()}
    if isinstance(value, Enum):
        return {"enum": [type(value).__name__, canonical(value.value)]}
    if isinstance(value, BaseModel):
        return {"options": [type(value).__name__, canonical(dict(value))]}
    if isinstance(value, type):
        return {"type": value.__name__}
    if dataclasses.is_dataclass(value):
        # Fields that don't count for equality don't count here.
        found = {item.name: canonical(getattr(value, item.name)) for item in dataclasses.fields(value) if item.compare}
        return {"value": [type(value).__name__, found]}
    if isinstance(value, Mapping):
        # As pairs: a mapping may have keys of other types than text, and its order may count.
        return {"mapping": [[canonical(key), canonical(item)] for key, item in value.items()]}
    if isinstance(value, (set, frozenset)):
        return {"set": sorted((canonical(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))}
    if isinstance(value, Sequence):
        return [canonical(item) for item in value]
    if isinstance(value, PurePath):
        return {"path": value.as_posix()}
    if callable(value):
        return {"function": getattr(value, "__qualname__", type(value).__name__)}
    raise TypeError(f"A {type(value).__name__} has no hash that is the same in every process.")
