"""JSON that says everything once.

Of a key that stands twice in one object Python keeps the last value and says nothing. What a person may have written
is read here instead.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Final

_SHOWN: Final = 40
"""Characters of a value that messages show."""


class RepeatedKeyError(ValueError):
    """A key stands twice in one object: ``the key 'text' is there twice: "a" and "b"``."""


def read_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        RepeatedKeyError: where a key stands twice in one object, at any depth.
        ValueError, RecursionError: where it isn't JSON.
    """
    return json.loads(text, object_pairs_hook=_each_once)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        times = Counter(key for key, _ in pairs)
        twice = next(key for key, number in times.items() if number > 1)
        first, second, *_ = [_quoted(value) for key, value in pairs if key == twice]
        raise RepeatedKeyError(f"the key {twice!r} is there twice: {first} and {second}")
    return found


def _quoted(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
