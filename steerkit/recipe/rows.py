"""Rows of a file to examples: which fields hold what, and what is wrong with which row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date, time
from typing import Any, Final, TypeAlias, cast

from steerkit.errors import DataError, counted, listed, nearest
from steerkit.recipe.document import HALF, is_whole
from steerkit.recipe.schema import DatasetRecipe
from steerkit.recipe.tables import Row
from steerkit.recipe.values import fields_of, fill
from steerkit.types import Example, Message, same_value
from steerkit.types.examples import Role

Sides: TypeAlias = tuple[Example, ...]
"""What a row gives: an example, or the positive and the negative one of a pair."""

_SHOWN: Final = 3
_REPEATS: Final = "repeats an earlier row"
_USUAL_FIELDS: Final = ("text", "prompt", "instruction")
_SPEAKERS: Final[Mapping[str, str]] = {"human": "user", "gpt": "assistant", "function": "tool"}
"""Roles as chat data in the form ``conversations``, ``from``, ``value`` call them."""


class Faults(Exception):
    """Messages, each with the first row that it is about, where it is about rows."""

    def __init__(self, *messages: tuple[str, int | None]) -> None:
        super().__init__(*messages)
        self.messages = messages


class NotObtainedError(Faults):
    """That a file isn't there, with where it comes from."""


class _Fault(Exception):
    """What is wrong with one row, as the end of a sentence, and what faults it is told together with."""

    def __init__(self, what: str, group: str = "") -> None:
        super().__init__(what)
        self.what, self.group = what, group or what


def read_rows(
    source: str, rows: Sequence[Row], dataset: DatasetRecipe, alike: Callable[[Example], str] | None = None
) -> list[Sides]:
    """Examples of a data set, in the order of its rows.

    Args:
        source: what messages call the file.
        rows: all of them.
        dataset: which fields hold what.
        alike: what is equal of two examples where one repeats the other; ``identity`` where None.

    Raises:
        DataError: for what is wrong with all rows, such as a field that there isn't.
        Faults: with everything that is wrong with single rows.
    """
    if not rows:
        raise DataError(f"{source} holds no texts.")
    reader = _Reader(source, rows, dataset)
    faults = _Tally(source)
    first: dict[tuple[str, ...], int] = {}
    found: list[Sides] = []
    for row in reader.picked():
        try:
            sides = reader.read(row)
        except _Fault as fault:
            faults.add(fault.what, row.number, fault.group)
            continue
        key = tuple((alike or identity)(side) for side in sides)
        if first.setdefault(key, row.number) == row.number:
            found.append(sides)
        elif dataset.duplicates == "error":
            what = f"repeats row {first[key]} ({quote(sides[0].text)})"
            faults.add(what, row.number, _REPEATS)
    faults.raise_any()
    return [tuple(replace(side, pair=n) for side in one) if len(one) > 1 else one for n, one in enumerate(found)]


class _Reader:
    """Reads one row after the other.

    Args:
        source: what messages call the file.
        rows: all of them.
        dataset: which fields hold what.
    """

    def __init__(self, source: str, rows: Sequence[Row], dataset: DatasetRecipe) -> None:
        self.source, self.rows, self.dataset = source, rows, dataset
        self.named = _named(dataset)
        self.known = dict.fromkeys(key for row in rows if isinstance(row.value, Mapping) for key in row.value)
        for key, field in self.named:
            if self.known and field not in self.known:
                raise DataError(f"{source} has no field {field!r}. {nearest(field, self.known, 'field')}")
            if not self.known and not any(isinstance(row.value, Mapping) for row in rows):
                raise DataError(f"{source} holds plain texts, without fields: remove `{key}`.")
        pairs = dataset.pairs
        by_itself = dataset.messages is None and dataset.template is None and (pairs is None or pairs.of != "prompts")
        self.field = self._choose_field() if by_itself else None

    def _choose_field(self) -> str:
        fields, field = self.known, self.dataset.field
        if not fields or field is not None:
            return field or ""
        taken = {name for _, name in self.named}
        usual = [name for name in _USUAL_FIELDS if name in fields and name not in taken]
        left = [name for name in fields if name not in taken]
        if usual or len(left) == 1:
            return usual[0] if usual else left[0]
        raise DataError(
            f"{self.source}: which field holds the text? Set `field` to one of {listed([*fields])}"
            f"{', or `messages` to one that holds conversations' if _any_lists(self.rows) else ''}."
        )

    def picked(self) -> Iterable[Row]:
        """The rows that ``where`` picks. Raises ``DataError`` where there are none."""
        where = self.dataset.where
        if where is None:
            return self.rows
        picked = [
            row
            for row in self.rows
            if isinstance(row.value, Mapping) and all(_is(row.value.get(key), wanted) for key, wanted in where.items())
        ]
        if not picked:
            key = next(iter(where))
            there = dict.fromkeys(_shown(row.value.get(key)) for row in self.rows if isinstance(row.value, Mapping))
            listed = f"{', '.join(list(there)[:8])}{', …' if len(there) > 8 else ''}"
            raise DataError(f"{self.source}: no row is picked by `where`. Values of {key!r} are {listed}.")
        return picked

    def read(self, row: Row) -> Sides:
        """The example of a row, or both of a pair. Raises ``_Fault``."""
        dataset, pairs = self.dataset, self.dataset.pairs
        values = row.value if isinstance(row.value, Mapping) else {}
        common: dict[str, Any] = {
            "label": None if dataset.label is None else _label(values.get(dataset.label)),
            "id": None if dataset.id is None else _id(values.get(dataset.id)),
            "fields": _kept(values, self._consumed()),
        }
        if (prefix := dataset.prefix_field) is not None:
            common["answer_prefix"] = _prefix(values.get(prefix))
        elif isinstance(dataset.answer_prefix, str):
            common["answer_prefix"] = dataset.answer_prefix
        if dataset.completion is not None:
            common["completion"] = _text(values.get(dataset.completion), "completion")
        if pairs is None:
            return (_example(self._messages(row), common),)
        sides = [values.get(pairs.positive), values.get(pairs.negative)]
        if pairs.of == "prompts":
            found = tuple(_example(_turns(side), common) for side in sides)
        else:
            messages = self._messages(row)
            found = tuple(_example(messages, {**common, "completion": _text(side, "completion")}) for side in sides)
        if identity(found[0]) == identity(found[1]):
            raise _Fault("has the same text on both sides of its pair")
        return found

    def _messages(self, row: Row) -> tuple[Message, ...]:
        if isinstance(row.value, Mapping):
            if self.dataset.messages is not None:
                return _conversation(row.value.get(self.dataset.messages))
            if self.dataset.template is not None:
                names = fields_of(self.dataset.template)
                filled = fill(self.dataset.template, {name: _printed(row.value.get(name), name) for name in names})
                return (Message("user", filled),)
        value = row.value.get(self.field) if isinstance(row.value, Mapping) else row.value
        return (Message("user", _text(value)),)

    def _consumed(self) -> set[str]:
        """Fields that are somewhere else in the example already."""
        dataset, pairs = self.dataset, self.dataset.pairs
        named = {self.field, dataset.messages, dataset.completion, dataset.label, dataset.id, dataset.prefix_field}
        found = {*filter(None, named), *((pairs.positive, pairs.negative) if pairs else ())}
        return found - {dataset.split.by if dataset.split is not None else None}


def _named(dataset: DatasetRecipe) -> list[tuple[str, str]]:
    """Every field that a data set names, with the key that names it, as written."""
    keys = ("field", "messages", "completion", "label", "id")
    found = [(f"{key}: {value}", value) for key in keys if (value := getattr(dataset, key)) is not None]
    found += [("answer_prefix", name) for name in (dataset.prefix_field,) if name is not None]
    found += [("template", name) for name in (fields_of(dataset.template) if dataset.template else ())]
    found += [("where", name) for name in dataset.where or ()]
    if dataset.split is not None and dataset.split.by is not None:
        found.append((f"split: {{by: {dataset.split.by}}}", dataset.split.by))
    if dataset.pairs is not None:
        found += [("pairs", dataset.pairs.positive), ("pairs", dataset.pairs.negative)]
    return found


def _example(messages: tuple[Message, ...], about: Mapping[str, Any]) -> Example:
    if about.get("completion") is not None and messages[-1].role == "assistant":
        raise _Fault("has a completion, and a conversation that ends with the assistant's turn already")
    if about.get("answer_prefix") and messages[-1].role == "assistant":
        raise _Fault("has an answer_prefix, and a conversation that ends with the assistant's turn already")
    return Example(messages, **about)


def _kept(values: Mapping[str, Any], consumed: set[str]) -> dict[str, Any]:
    """The other fields, as JSON has them; what JSON can't hold (bytes, pictures) is left out."""
    kept = {}
    for key, value in values.items():
        if key not in consumed:
            with suppress(TypeError, ValueError, RecursionError):
                kept[str(key)] = json.loads(json.dumps(value, default=_dated))
    return kept


def _dated(value: object) -> str:
    if isinstance(value, (date, time)):
        return value.isoformat()
    raise TypeError(type(value).__name__)


def _text(value: object, what: str = "") -> str:
    behind = f" as its {what}" if what else ""
    if not isinstance(value, str):
        raise _Fault(f"has no text{behind}" if value is None else f"holds {_kind(value)} instead of text{behind}")
    if not is_whole(value):
        raise _Fault(HALF)
    if not value.strip():
        raise _Fault(f"has an empty {what}" if what else "is empty")
    return value


def _prefix(value: object) -> str:
    """How a row's answer begins; an empty text for nothing."""
    return "" if value == "" else _text(value, "answer_prefix") if not _is_space(value) else str(value)


def _is_space(value: object) -> bool:
    return isinstance(value, str) and not value.strip()


def _turns(value: object) -> tuple[Message, ...]:
    """A side of a pair: a text, or a conversation."""
    return _conversation(value) if isinstance(value, list) else (Message("user", _text(value)),)


def _conversation(value: object) -> tuple[Message, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        what = "has no conversation" if value is None else f"holds {_kind(value)} instead of a list of messages"
        raise _Fault(what)
    if not value:
        raise _Fault("has an empty conversation")
    messages = tuple(_message(item) for item in value)
    if not any(message.content.strip() for message in messages):
        raise _Fault("is empty")
    return messages


def _message(item: object) -> Message:
    if isinstance(item, Mapping):
        for role, content in (("role", "content"), ("from", "value")):
            if role in item and content in item:
                speaker, text = item[role], item[content]
                if not isinstance(text, str):
                    raise _Fault(f"has a message whose {content} is {_kind(text)} instead of text")
                if not is_whole(text):
                    raise _Fault(HALF)
                try:
                    return Message(cast(Role, _SPEAKERS.get(str(speaker), speaker)), text)
                except DataError as error:
                    what = "has a message with an unknown role"
                    raise _Fault(f"{what}: {error}", what) from error
    raise _Fault("has a message that is neither {role, content} nor {from, value}")


def _printed(value: object, field: str) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return json.dumps(value)
    try:
        return _text(value)
    except _Fault as fault:
        raise _Fault(f"{fault.what} in field {field!r}", f"{fault.group} in field {field!r}") from None


def _label(value: object) -> object:
    if value is None or not isinstance(value, (str, int, float, bool)):
        raise _Fault("has no label" if value is None else f"holds {_kind(value)} instead of a label")
    return value


def _id(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise _Fault("has no id" if value is None else f"holds {_kind(value)} instead of an id")
    return str(value)


def _is(value: object, wanted: object) -> bool:
    """Whether a field has one of the wanted values."""
    return any(same_value(value, one) for one in (wanted if isinstance(wanted, (list, tuple)) else (wanted,)))


def _any_lists(rows: Sequence[Row]) -> bool:
    values = (value for row in rows if isinstance(row.value, Mapping) for value in row.value.values())
    return any(isinstance(value, list) for value in values)


def _kind(value: object) -> str:
    return type(value).__name__


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=_kind)
    return text if len(text) <= 30 else f"{text[:27]}..."


# What is equal to what


def normalise(text: str) -> str:
    """A text as it is compared: upper and lower case and white space make no difference."""
    return " ".join(text.casefold().split())


def prompt_of(example: Example) -> str:
    """What an answer is given to, as it is compared: the conversation without answers of the assistant's at its end."""
    messages = list(example.messages)
    while len(messages) > 1 and messages[-1].role == "assistant":
        messages.pop()
    return _compared(messages)


def identity(example: Example) -> str:
    """A whole example as it is compared, completion and all: two answers to one prompt are two examples."""
    behind = "" if example.completion is None else f"\x1f{normalise(example.completion)}"
    behind = behind if example.answer_prefix is None else f"\x1d{normalise(example.answer_prefix)}{behind}"
    return _compared(example.messages) + behind


def _compared(messages: Sequence[Message]) -> str:
    if len(messages) == 1 and messages[0].role == "user":
        return normalise(messages[0].content)
    return "\x1e".join(f"{message.role}\x1d{normalise(message.content)}" for message in messages)


def describe_shared(examples: Sequence[Example]) -> str:
    """The half sentence that says how many texts are shared, with examples."""
    listed = ", ".join(quote(example.text) for example in examples[:_SHOWN])
    more = ", …" if len(examples) > _SHOWN else ""
    return f"share {counted(len(examples), 'text')}: {listed}{more}"


def quote(text: str) -> str:
    """A text as messages show it."""
    return repr(text if len(text) <= 50 else f"{text[:47]}...")


class _Tally:
    """Counts what is wrong with rows, so that a thousand bad ones make a line and not a thousand."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.found: dict[str, list[tuple[int, str]]] = {}

    def add(self, what: str, row: int, group: str) -> None:
        self.found.setdefault(group, []).append((row, what))

    def raise_any(self) -> None:
        messages: list[tuple[str, int | None]] = []
        for group, items in self.found.items():
            if len(items) == 1:
                end = "" if items[0][1].endswith(".") else "."
                messages.append((f"{self.source}, row {items[0][0]} {items[0][1]}{end}", items[0][0]))
                continue
            rows = ", ".join(str(row) for row, _ in items[:_SHOWN])
            more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
            messages.append((f"{self.source}, rows {rows}{more}: each {group}.", items[0][0]))
        if _REPEATS in self.found:
            at = list(self.found).index(_REPEATS)
            messages[at] = (f"{messages[at][0]} Remove them, or set `duplicates: drop`.", messages[at][1])
        if messages:
            raise Faults(*messages)
