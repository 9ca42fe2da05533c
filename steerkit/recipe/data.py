"""Data sets to examples: files, inline lists and hub data sets, split by size and seed, and kept apart."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from steerkit.errors import DataError, Problem, SteerkitError, agreeing, nearest
from steerkit.recipe.draft import Draft
from steerkit.recipe.joined import Splits, joined
from steerkit.recipe.rows import Faults, NotObtainedError, Sides, describe_shared, prompt_of, quote, read_rows
from steerkit.recipe.schema import SPLITS, WHOLE, DatasetRecipe
from steerkit.recipe.tables import Row, read_hub, read_table
from steerkit.types import Example

__all__ = ["DataRef", "Splits", "load_data", "parse_ref", "split_rows"]

T = TypeVar("T")

SIDES: Final = ("positive", "negative")
_READING: Final = (
    *("file", "inline", "hub", "completions", "config", "hub_split", "duplicates"),
    *("field", "messages", "template", "completion", "answer_prefix", "pairs", "label", "id", "where"),
)
"""Keys of a data set that say which examples it holds."""
_SHOWN: Final = 5
"""How many values of a field messages show."""


@dataclass(frozen=True)
class DataRef:
    """A split of a data set. As text ``warm.train``, or ``warm`` where the data set isn't split.

    A data set of pairs has two sides: ``caa.train.positive``, or ``caa.positive`` where it isn't split.
    """

    dataset: str
    split: str = WHOLE

    def __str__(self) -> str:
        return self.dataset if self.split == WHOLE else f"{self.dataset}.{self.split}"

    @property
    def part(self) -> str:
        """``train``, ``validation``, ``test``, or ``all`` where the data set isn't split; without the side."""
        part = self.split.partition(".")[0]
        return WHOLE if part in SIDES else part

    def of_part(self, part: str) -> DataRef:
        """The same side of another part."""
        side = self.split.rpartition(".")[2]
        return DataRef(self.dataset, f"{part}.{side}" if side in SIDES else part)


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
        what = "holds pairs; name the side" if SIDES[0] in splits else "is split; name the part"
        raise DataError(f"{dataset!r} {what}: {' or '.join(f'{dataset}.{part}' for part in splits)}.")
    if dot and split not in splits:
        why = f"{dataset!r} isn't split, so {dataset} alone is meant. " if WHOLE in splits else ""
        raise DataError(f"{text!r} is not a part of the data. {why}{nearest(text, refs, 'data')}")
    return DataRef(dataset, split or WHOLE)


def load_data(draft: Draft) -> tuple[dict[str, Splits], list[Problem]]:
    """Read every data set of a recipe.

    Returns:
        ``{data set: {split: examples}}`` and every problem. A data set with a problem has its splits, empty. What the
        model says itself isn't there yet: ``steerkit.recipe.completions`` holds its place.
    """
    loaded: dict[str, Splits] = {}
    problems: list[Problem] = []
    recipe = draft.recipe
    for name, dataset in recipe.data.items():
        if dataset.completions is not None:
            continue
        if dataset.of is not None:
            said = [one for one, other in recipe.data.items() if other.completions is not None]
            loaded[name], told = joined(dataset, loaded, [one for one in recipe.data if one not in loaded], said)
            if not draft.lost("data", name, "of"):
                problems += [Problem(message, *draft.place("data", name, "of", *key)) for message, key in told]
            continue
        try:
            rows = _begun(_rows(draft, name, dataset), dataset, recipe.model.answer_prefix)
            seed = recipe.seed if dataset.seed is None else dataset.seed
            drawn = split_rows(rows, dataset, seed, _named_parts(rows, dataset))
            loaded[name] = _by_side(drawn, dataset)
        except Faults as faults:
            parts: Iterable[str] = (dataset.split.sizes or SPLITS) if dataset.split else (WHOLE,)
            loaded[name] = _by_side(dict.fromkeys(parts, ()), dataset)
            for message, row in faults.messages:
                item = ("inline", row - 1) if row and dataset.inline is not None else ()
                if not draft.lost("data", name, *item):
                    problem = Problem(message, *draft.place("data", name, *item))
                    problems.append(replace(problem, to_obtain=isinstance(faults, NotObtainedError)))
    problems += [Problem(message, *draft.place("data", name)) for name, message in _overlaps(loaded, list(loaded))]
    return loaded, problems


def _by_side(drawn: Mapping[str, Sequence[Sides]], dataset: DatasetRecipe) -> Splits:
    """The splits, or both sides of each: pairs were drawn as one, so no split separates them."""
    if dataset.pairs is None:
        return {part: tuple(example for (example,) in rows) for part, rows in drawn.items()}
    return {
        side if part == WHOLE else f"{part}.{side}": tuple(row[at] for row in rows)
        for part, rows in drawn.items()
        for at, side in enumerate(SIDES)
    }


def _rows(draft: Draft, name: str, dataset: DatasetRecipe) -> list[Sides]:
    # Of a draft: which examples are meant isn't known, but whether a file can be read is.
    doubtful = any(draft.lost("data", name, key) for key in _READING)
    if doubtful and dataset.file is None:
        raise Faults
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
            raise Faults
        return read_rows(source, rows, dataset)
    except SteerkitError as error:
        lost = dataset.obtain is not None and dataset.file is not None and not _is_there(draft, dataset.file)
        if lost:
            raise NotObtainedError((f"{error} {dataset.obtain}", None)) from error
        raise Faults((str(error), None)) from error


def _is_there(draft: Draft, file: str) -> bool:
    try:
        return draft.path_of(file).exists()
    except SteerkitError:
        return True  # no path at all: where the file comes from is no help


def _named_parts(rows: Sequence[Sides], dataset: DatasetRecipe) -> list[object] | None:
    """What each row says which part it is of; None where rows don't say so."""
    by = None if dataset.split is None else dataset.split.by
    return None if by is None else [sides[0].fields.get(by) for sides in rows]


def _begun(rows: list[Sides], dataset: DatasetRecipe, prefix: str | None) -> list[Sides]:
    """Rows whose answers begin as the recipe's model says, where the data set itself says nothing of it."""
    if prefix is None or dataset.answer_prefix is not None:
        return rows
    return [tuple(one if one.is_closed else replace(one, answer_prefix=prefix) for one in sides) for sides in rows]


def split_rows(
    rows: Sequence[T], dataset: DatasetRecipe, seed: int, named: Sequence[object] | None = None
) -> dict[str, tuple[T, ...]]:
    """Draw the splits.

    Two data sets of one length and seed are drawn alike, so that rows which stand in pairs stay in
    pairs. Within a split rows keep the order of the file.

    Args:
        rows: all of them.
        dataset: says how they are split.
        seed: of the draw.
        named: which part each row is of, where it says so itself; others are then not drawn for that part.
    """
    if dataset.split is None:
        return {WHOLE: tuple(rows)}
    sizes = dataset.split.sizes
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    if named is not None:
        return {
            part: tuple(rows[index] for index in sorted(chosen))
            for part, chosen in _drawn_by_name(order, named, dataset).items()
        }
    wanted = sum(sizes.values())
    if wanted > len(rows):
        what = "texts" if dataset.pairs is None else "pairs"
        listed = " + ".join(f"{part} {size}" for part, size in sizes.items())
        raise Faults((f"split asks for {wanted} {what} ({listed}); there are {len(rows)}.", None))
    drawn: dict[str, tuple[T, ...]] = {}
    start = 0
    for part, size in sizes.items():
        drawn[part] = tuple(rows[index] for index in sorted(order[start : start + size]))
        start += size
    return drawn


def _drawn_by_name(order: Sequence[int], named: Sequence[object], dataset: DatasetRecipe) -> dict[str, list[int]]:
    """Places of rows that are drawn for each part among those that say that they are of it."""
    assert dataset.split is not None
    sizes, by = dataset.split.sizes, dataset.split.by
    own = {part: [index for index in order if named[index] == part] for part in SPLITS}
    if not any(own.values()):
        values = list(dict.fromkeys(quote(value) if isinstance(value, str) else repr(value) for value in named))
        there = ", ".join([*values[:_SHOWN], *(["…"] if values[_SHOWN:] else [])])
        raise Faults((f"split goes by field {by!r}, which is train, validation or test in no row, but {there}.", None))
    short = [part for part, size in sizes.items() if size > len(own[part])]
    if short:
        part = short[0]
        has = f"there {agreeing(len(own[part]))} {len(own[part])} whose {by!r} is {part}"
        raise Faults((f"split asks for {part} {sizes[part]}; {has}.", None))
    return {part: own[part][: sizes.get(part, len(own[part]))] for part in (sizes or SPLITS) if own[part]}


def _overlaps(data: Mapping[str, Splits], names: list[str]) -> Iterator[tuple[str, str]]:
    """Prompts that are in two of train, validation and test, anywhere: ``(data set, message)``."""
    seen: dict[str, DataRef] = {}
    shared: dict[tuple[DataRef, DataRef], list[Example]] = {}
    refs = [DataRef(name, split) for name in names for split in data[name]]
    for part in SPLITS:
        for ref in (one for one in refs if one.part == part):
            for example in data[ref.dataset][ref.split]:
                other = seen.setdefault(prompt_of(example), ref)
                if other.part != part:
                    shared.setdefault((other, ref), []).append(example)
    for (one, other), examples in shared.items():
        yield other.dataset, f"{one} and {other} must be disjoint, but {describe_shared(examples)}."
