"""Mutations of bytes, of lines and of JSON values. The same random numbers give the same ones."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any, Final

_TEXTS: Final = (
    *("", " ", "\x00", "\ufeff", "é", "😀", "\\ud83d", "a" * 5000, "../../..", "null", "~", "-1", "1e308", "NaN", "{}"),
    *(
        "[" * 2000,
        "{{ 7 }}",
        "${HOME}",
        "%s%n",
        "!!python/object/apply:os.system [x]",
        "blocks.999.resid_pre",
        "\n\n---\n",
    ),
)
_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, -1, 1, 3, 10**9, 10**30, -(10**400), 0.5, -0.0, 1e308, 5e-324, 1e-400),
    *([], {}, [[]], [None], {"": None}, "", "text", "😀", "\u2028", "a" * 3000, ["a", 1, None], {"source": "x"}),
)
_BYTES: Final = (
    b"\x00",
    b"\xff\xfe",
    b"\x80",
    b"\xed\xa0\x80",
    b"\r",
    b"\t",
    b'"',
    b"'",
    b"{",
    b"[",
    b"]",
    b":",
    b"#",
    b"&a *a",
)


def of_bytes(draw: random.Random, data: bytes) -> bytes:
    """A file cut, doubled, overwritten, or with something put in."""
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        at = draw.randrange(len(data) + 1)
        to = min(len(data), at + draw.choice((1, 1, 4, 16, 200)))
        how = draw.randrange(7)
        if how == 0:
            data = data[:at]
        elif how == 1:
            data = data[:at] + data[to:]
        elif how == 2:
            data = data[:at] + data[at:to] * draw.choice((2, 3, 50)) + data[to:]
        elif how == 3:
            data = data[:at] + draw.choice(_BYTES) + data[at:]
        elif how == 4:
            data = data[:at] + draw.randbytes(to - at) + data[to:]
        elif how == 5:
            data = data[:at] + draw.choice(_TEXTS).encode() + data[to:]
        elif data:
            flipped = bytearray(data)
            flipped[min(at, len(data) - 1)] ^= 1 << draw.randrange(8)
            data = bytes(flipped)
    return data


def of_lines(draw: random.Random, text: str) -> str:
    """A text with lines taken out, doubled, moved, indented, or of another value."""
    lines = text.split("\n")
    for _ in range(draw.choice((1, 1, 2, 3))):
        at = draw.randrange(len(lines))
        how = draw.randrange(6)
        if how == 0:
            del lines[at]
        elif how == 1:
            lines.insert(at, lines[at])
        elif how == 2:
            lines.insert(draw.randrange(len(lines)), lines.pop(at))
        elif how == 3:
            lines[at] = " " * draw.randrange(1, 5) + lines[at]
        elif how == 4:
            key, colon, _ = lines[at].partition(":")
            lines[at] = f"{key}{colon} {draw.choice(_TEXTS)}"
        else:
            words = lines[at].split(" ")
            words[draw.randrange(len(words))] = draw.choice(_TEXTS)
            lines[at] = " ".join(words)
        lines = lines or [""]
    return "\n".join(lines)


def of_value(draw: random.Random, value: Any) -> Any:
    """Plain values with another value, key or item somewhere."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        places = list(_places(value))
        if not places:
            return draw.choice(_VALUES)
        holder, key = draw.choice(places)
        how = draw.randrange(5)
        if how == 0:
            del holder[key]
        elif how == 1 and isinstance(holder, dict):
            holder[draw.choice((f"{key}x", "", "direction", "source", str(key).upper()))] = holder.pop(key)
        elif how == 2 and isinstance(holder, list):
            holder.extend(copy.deepcopy(holder) * draw.choice((1, 3)))
        elif how == 3:
            other, at = draw.choice(places)
            holder[key] = copy.deepcopy(other[at]) if at in other or (isinstance(at, int) and at < len(other)) else None
        else:
            holder[key] = copy.deepcopy(draw.choice(_VALUES))
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    listed = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(listed):
        yield value, key
        yield from _places(item)
