"""Data sets to texts: files, inline lists and hub data sets, split by size and seed, and kept apart."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from steerkit.errors import DataError, Problem, SteerkitError, nearest
from steerkit.recipe.document import HALF, is_whole
from steerkit.recipe.draft import Draft
from steerkit.recipe.schema import SPLITS, WHOLE, DatasetRecipe
from steerkit.recipe.tables import Row, read_hub, read_table

Splits: TypeAlias = Mapping[str, tuple[str, ...]]

_SHOWN: Final = 3
_USUAL_FIELDS: Final = ("text", "prompt", "instruction")
_READING: Final = ("file", "inline", "hub", "config", "hub_split", "field", "duplicates")
"""Keys of a data set that say which texts it holds."""


@dataclass(frozen=True)
class DataRef:
    """A split of a data set. As text ``warm.train``, or ``warm`` where the data set isn't split."""

    dataset: str
    split: str = WHOLE

    def __str__(self) -> str:
        return self.dataset if self.split == WHOLE else f"{self.dataset}.{self.split}"


def parse_ref(text: str, data: Mapping[str, Splits]) -> DataRef:
    """Read ``warm.train`` or ``warm``. Raises ``DataError`` with what there is instead."""
    dataset, dot, split = text.partition(".")
    refs = [str(DataRef(name, part)) for name, parts in data.items() for part in parts]
    if dataset not in data:
        raise DataError(f"{text!r} is not a data set. {nearest(text, refs, 'data')}")
    splits = data[dataset]
    if dot and split == WHOLE and WHOLE in splits:
        return DataRef(dataset)
    if not dot and WHOLE not in splits:
        raise DataError(f"{dataset!r} is split; name the part: {' or '.join(f'{dataset}.{part}' for part in splits)}.")
    if dot and split not in splits:
        why = f"{dataset!r} isn't split, so {dataset} alone is meant. " if WHOLE in splits else ""
        raise DataError(f"{text!r} is not a part of the data. {why}{nearest(text, refs, 'data')}")
    return DataRef(dataset, split or WHOLE)


def load_data(draft: Draft) -> tuple[dict[str, Splits], list[Problem]]:
    """Read every data set of a recipe.

    Returns:
        ``{data set: {split: texts}}`` and every problem. A data set with a problem has its splits, empty.
    """
    loaded: dict[str, Splits] = {}
    problems: list[Problem] = []
    recipe = draft.recipe
    for name, dataset in recipe.data.items():
        try:
            texts = _texts(draft, name, dataset)
            loaded[name] = split_texts(texts, dataset, recipe.seed if dataset.seed is None else dataset.seed)
        except _Faults as faults:
            loaded[name] = dict.fromkeys(dataset.split.sizes if dataset.split else (WHOLE,), ())
            for message, row in faults.messages:
                item = ("inline", row - 1) if row and dataset.inline is not None else ()
                if not draft.lost("data", name, *item):
                    problems.append(Problem(message, *draft.place("data", name, *item)))
    problems += [Problem(message, *draft.place("data", name)) for name, message in _overlaps(loaded, list(recipe.data))]
    return loaded, problems


class _Faults(Exception):
    """Messages, each with the first row that it is about, where it is about rows."""

    def __init__(self, *messages: tuple[str, int | None]) -> None:
        super().__init__(*messages)
        self.messages = messages


def _texts(draft: Draft, name: str, dataset: DatasetRecipe) -> list[str]:
    # Of a draft: which texts are meant isn't known, but whether a file can be read is.
    doubtful = any(draft.lost("data", name, key) for key in _READING)
    if doubtful and dataset.file is None:
        raise _Faults
    try:
        if dataset.file is not None:
            path = draft.path_of(dataset.file)
            source, rows = dataset.file, read_table(path)
        elif dataset.hub is not None:
            source, rows = dataset.hub, read_hub(dataset.hub, dataset.config, dataset.hub_split)
        else:
            source = "inline"
            rows = [Row(number, text) for number, text in enumerate(dataset.inline or (), 1)]
        if doubtful:
            raise _Faults
        return _clean(source, rows, dataset)
    except SteerkitError as error:
        raise _Faults((str(error), None)) from error


def _clean(source: str, rows: Sequence[Row], dataset: DatasetRecipe) -> list[str]:
    if not rows:
        raise DataError(f"{source} holds no texts.")
    faults = _Tally(source)
    first: dict[str, int] = {}
    texts: list[str] = []
    picked = _choose_field(source, rows, dataset.field)
    for row in rows:
        text = row.value.get(picked) if isinstance(row.value, Mapping) else row.value
        if not isinstance(text, str):
            what = "has no text" if text is None else f"holds {type(text).__name__} instead of text"
            faults.add(what, row.number)
        elif not is_whole(text):
            faults.add(HALF, row.number)
        elif not text.strip():
            faults.add("is empty", row.number)
        elif first.setdefault(normalise(text), row.number) != row.number:
            if dataset.duplicates == "error":
                faults.add(
                    f"repeats row {first[normalise(text)]} ({_quote(text)})", row.number, "repeats an earlier row"
                )
        else:
            texts.append(text)
    faults.raise_any()
    return texts


class _Tally:
    """Counts what is wrong with rows, so that a thousand bad ones make a line and not a thousand."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.found: dict[str, list[tuple[int, str]]] = {}

    def add(self, what: str, row: int, group: str = "") -> None:
        self.found.setdefault(group or what, []).append((row, what))

    def raise_any(self) -> None:
        messages: list[tuple[str, int | None]] = []
        for group, items in self.found.items():
            if len(items) == 1:
                messages.append((f"{self.source}, row {items[0][0]} {items[0][1]}.", items[0][0]))
                continue
            rows = ", ".join(str(row) for row, _ in items[:_SHOWN])
            more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
            messages.append((f"{self.source}, rows {rows}{more}: each {group}.", items[0][0]))
        if any("repeats" in group for group in self.found):
            message, row = messages[-1]
            messages[-1] = (f"{message} Remove them, or set `duplicates: drop`.", row)
        if messages:
            raise _Faults(*messages)


def _choose_field(source: str, rows: Sequence[Row], field: str | None) -> str:
    fields = dict.fromkeys(key for row in rows if isinstance(row.value, Mapping) for key in row.value)
    if not fields:
        if field is not None and not any(isinstance(row.value, Mapping) for row in rows):
            raise DataError(f"{source} holds plain texts, without fields: remove `field: {field}`.")
        return field or ""
    if field is not None:
        if field not in fields:
            raise DataError(f"{source} has no field {field!r}. {nearest(field, fields, 'field')}")
        return field
    usual = [name for name in _USUAL_FIELDS if name in fields]
    if len(fields) == 1 or usual:
        return usual[0] if usual else next(iter(fields))
    raise DataError(f"{source}: which field holds the text? Set `field` to one of {', '.join(fields)}.")


def split_texts(texts: Sequence[str], dataset: DatasetRecipe, seed: int) -> Splits:
    """Draw the splits.

    Two data sets of one length and seed are drawn alike, so that texts which stand in pairs stay in
    pairs. Within a split texts keep the order of the file.
    """
    if dataset.split is None:
        return {WHOLE: tuple(texts)}
    sizes = dataset.split.sizes
    wanted = sum(sizes.values())
    if wanted > len(texts):
        listed = " + ".join(f"{part} {size}" for part, size in sizes.items())
        raise _Faults((f"split asks for {wanted} texts ({listed}); there are {len(texts)}.", None))
    order = list(range(len(texts)))
    random.Random(seed).shuffle(order)
    drawn: dict[str, tuple[str, ...]] = {}
    start = 0
    for part, size in sizes.items():
        drawn[part] = tuple(texts[index] for index in sorted(order[start : start + size]))
        start += size
    return drawn


def normalise(text: str) -> str:
    """A text as it is compared: upper and lower case and white space make no difference."""
    return " ".join(text.casefold().split())


def _overlaps(data: Mapping[str, Splits], names: list[str]) -> Iterator[tuple[str, str]]:
    """Texts that are in two of train, validation and test, anywhere: ``(data set, message)``."""
    seen: dict[str, DataRef] = {}
    shared: dict[tuple[DataRef, DataRef], list[str]] = {}
    for part in SPLITS:
        for name in names:
            for text in data[name].get(part, ()):
                ref = DataRef(name, part)
                other = seen.setdefault(normalise(text), ref)
                if other.split != part:
                    shared.setdefault((other, ref), []).append(text)
    for (one, other), texts in shared.items():
        yield other.dataset, f"{one} and {other} must be disjoint, but {describe_shared(texts)}."


def describe_shared(texts: Sequence[str]) -> str:
    """The half sentence that says how many texts are shared, with examples."""
    listed = ", ".join(_quote(text) for text in texts[:_SHOWN])
    return f"share {len(texts)} text{'s' if len(texts) != 1 else ''}: {listed}{', …' if len(texts) > _SHOWN else ''}"


def _quote(text: str) -> str:
    return repr(text if len(text) <= 50 else f"{text[:47]}...")
