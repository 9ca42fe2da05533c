"""How large a value is, and how large one would be that isn't made yet: what bounds a stranger's template."""

from __future__ import annotations

import re
import string
from collections import abc
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import jinja2
from jinja2.utils import Namespace

LARGEST_NUMBER: Final = 1_000_000
"""Of a number that says how often or how wide."""
_ITEM: Final = 10
"""What an item of a list counts, in characters."""
_BITS: Final = 100_000
_WIDTH: Final = 9_999
_SLOW: Final = 100_000
"""Characters that a filter is given whose time grows faster than they do."""
_MIDDLING: Final = 1_000_000
_FREE: Final = frozenset(
    ("length", "count", "first", "last", "default", "d", "attr", "map", "select", "reject", "selectattr", "rejectattr")
)
"""Filters that look at no more than they need, or at one item after the other."""
_LINEAR: Final = frozenset(
    (
        *("trim", "string", "e", "escape", "forceescape", "safe", "lower", "upper", "capitalize", "title", "replace"),
        *("join", "tojson", "list", "items", "indent", "format", "truncate", "reverse", "center"),
    )
)
_QUADRATIC: Final = frozenset(("wordwrap", "urlize", "striptags", "pprint", "xmlattr", "sum", "sort", "unique"))
_PERCENT: Final = re.compile(r"%[^A-Za-z%]*?(\*|[0-9]{5,})")
_VIEWS: Final = (list, tuple, set, frozenset, abc.KeysView, abc.ValuesView, abc.ItemsView)


class TooMuchError(jinja2.TemplateRuntimeError):
    """A template that takes or makes more than any chat template does."""


def require(size: int, largest: int) -> int:
    """A size that is within a bound."""
    if size > largest:
        raise TooMuchError(f"it makes a value of more than {largest:,} characters")
    return size


def surface(value: Any) -> int:
    """What making a value takes, without what is inside its items."""
    if isinstance(value, (str, bytes)):
        return len(value)
    return _ITEM * len(value) if isinstance(value, (list, tuple, dict)) else 1


def weigh(value: Any, largest: int | None) -> int:
    """About how many characters a value is written in, with all that is inside it, as often as it is.

    Raises:
        TooMuchError: as soon as there are more than ``largest``.
    """
    total, left = 0, [value]
    while left:
        one = left.pop()
        if isinstance(one, (str, bytes)):
            total += len(one) + 2
        elif isinstance(one, Mapping):
            total += _ITEM
            left += [*one.keys(), *one.values()]
        elif isinstance(one, _VIEWS):
            total += _ITEM
            left += one
        elif isinstance(one, Namespace):
            total += _ITEM
            left.append(one._Namespace__attrs)
        elif isinstance(one, range):
            total += _ITEM * len(one)
        else:
            total += _ITEM + (one.bit_length() // 3 if isinstance(one, int) else 0)
        if largest is not None and total + len(left) > largest:
            require(total + len(left), largest)
    return total


def of_operation(operator: str, left: Any, right: Any, largest: int) -> int:
    """The size of what an operator makes."""
    if operator == "%" and isinstance(left, (str, bytes)):
        return _formatted(
            left.count(b"%") if isinstance(left, bytes) else left.count("%"), left, _PERCENT, right, largest
        )
    if isinstance(left, int) and isinstance(right, int):
        bits = {
            "*": left.bit_length() + right.bit_length(),
            "**": left.bit_length() * abs(right) if abs(left) > 1 else 1,
        }.get(operator, 1)
        if bits > _BITS:
            raise TooMuchError(f"it makes a number of more than {_BITS:,} bits")
        return bits // 3
    if operator == "*":
        times, made = (left, right) if isinstance(left, int) else (right, left)
        return require(max(times, 0) * surface(made), largest) if isinstance(times, int) else 1
    return require(surface(left) + surface(right), largest) if operator == "+" else 1


def bounded_call(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], largest: int) -> tuple[Any, ...]:
    """The arguments of a call of what is built in, which is refused where it would make too large a value."""
    function = getattr(function, "__wrapped__", function)  # the sandbox wraps str.format
    owner, name = getattr(function, "__self__", None), str(getattr(function, "__name__", ""))
    if isinstance(owner, (str, bytes)):
        _require_numbers((*args, *kwargs.values()))
        return _text_method(owner, name, args, kwargs, largest)
    if isinstance(owner, (int, list, tuple, dict)):
        _require_numbers((*args, *kwargs.values()))
    return args


def bounded_filter(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], largest: int) -> tuple[Any, ...]:
    """The arguments of a filter, which is refused where it would make too large a value or take too long."""
    value, *others = args
    others_too = (*others, *kwargs.values())
    if name in _FREE:
        return tuple(args)
    _require_numbers(others_too)
    if name in ("join", "list", "reverse") and not isinstance(value, (str, bytes, abc.Mapping, *_VIEWS, range)):
        value = _listed(value, largest)
    bound = largest if name in _LINEAR else min(largest, _SLOW if name in _QUADRATIC else _MIDDLING)
    size = weigh([value, *others_too], bound)
    if name == "replace" and len(others) >= 2:
        require(_replaced(str(value), str(others[0]), str(others[1])), largest)
    elif name == "join":
        between = str(others[0]) if others else str(kwargs.get("d", ""))
        require(size + len(between) * (len(value) if hasattr(value, "__len__") else 1), largest)
    elif name == "indent":
        width = others[0] if others else kwargs.get("width", 4)
        require(size + (str(value).count("\n") + 1) * (width if isinstance(width, int) else len(str(width))), largest)
    elif name == "format":
        _formatted(str(value).count("%"), str(value), _PERCENT, others_too, largest)
    elif name in ("tojson", "round"):
        _require_numbers(others_too, 100)
    return (value, *others)


def _text_method(
    owner: str | bytes, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], largest: int
) -> tuple[Any, ...]:
    if name == "replace" and len(args) >= 2:
        require(_replaced(owner, args[0], args[1]), largest)
    elif name == "join" and args:
        listed = _listed(args[0], largest)
        require(weigh(listed, largest) + len(owner) * len(listed), largest)
        return (listed, *args[1:])
    elif name == "expandtabs":
        width = next(iter((*args, *kwargs.values())), 8)
        require(len(owner) * (width if isinstance(width, int) else 8), largest)
    elif name == "translate" and args and isinstance(args[0], Mapping):
        require(len(owner) * max((len(one) for one in args[0].values() if isinstance(one, str)), default=1), largest)
    elif name in ("format", "format_map") and isinstance(owner, str):
        fields = [spec or "" for _, field, spec, _ in string.Formatter().parse(owner) if field is not None]
        for spec in fields:
            if "{" in spec or re.search(r"[0-9]{5,}", spec):
                raise TooMuchError(f"it pads to more than {_WIDTH:,} characters")
        require(len(owner) + len(fields) * (weigh([*args, *kwargs.values()], largest) + _WIDTH), largest)
    return args


def _formatted(fields: int, text: str | bytes, wide: re.Pattern[str], values: Any, largest: int) -> int:
    if wide.search(text.decode("latin-1") if isinstance(text, bytes) else text):
        raise TooMuchError(f"it pads to more than {_WIDTH:,} characters")
    return require(len(text) + fields * (weigh(values, largest) + _WIDTH), largest)


def _replaced(text: Any, old: Any, new: Any) -> int:
    """The length of a text with another in the place of a part of it."""
    try:
        return len(text) + (text.count(old) if old else len(text) + 1) * len(new)
    except TypeError:
        return 0  # what can't be replaced says so itself


def _listed(values: Iterable[Any], largest: int) -> list[Any]:
    found = list(islice(values, largest // _ITEM + 1))
    require(_ITEM * len(found), largest)
    return found


def _require_numbers(values: Iterable[Any], largest: int = LARGEST_NUMBER) -> None:
    for value in values:
        if isinstance(value, int) and abs(value) > largest:
            raise TooMuchError(
                f"it asks for {value:,} of something, and for more than {largest:,} no chat template does"
                if abs(value) < 10**30
                else "it asks for more of something than any chat template does"
            )
