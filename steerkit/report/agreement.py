"""Where verdicts on the same examples differ: evaluators among each other, and with the labels of the data."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Final

from steerkit.artifacts.reading import EvaluatorEntry, Run, Sample
from steerkit.errors import counted
from steerkit.report.absent import absent_word, is_judge
from steerkit.report.numbers import shorten

LABEL: Final = "label"
"""As the report calls what the data say themselves."""

SHOWN: Final = 10
"""Completions of a condition on which two differ; all of them are in ``samples.jsonl``."""

CONDITIONS_SHOWN: Final = 6
PROMPT_LENGTH: Final = 120
COMPLETION_LENGTH: Final = 280

_PLAIN_LABELS: Final[Mapping[str, bool]] = {"0": False, "1": True, "false": False, "true": True}


@dataclass(frozen=True)
class Difference:
    """One example on which two verdicts differ, each 1 or 0; texts are cut."""

    prompt: str
    completion: str | None
    first: int
    second: int


@dataclass(frozen=True)
class Compared:
    """Two verdicts on the examples of a data set under one condition, those that both have.

    Args:
        condition: its name.
        n: how many examples have both.
        only_first: how many the first alone calls 1.
        only_second: how many the second alone does.
        kappa: Cohen's, or None where both always say the same one thing.
        differences: the first few examples on which they differ.
        lacking: how many examples a judge among the two gave no verdict on.
        absent: what is said of these; empty where there are none.
    """

    condition: str
    n: int
    only_first: int
    only_second: int
    kappa: float | None
    differences: tuple[Difference, ...]
    lacking: int = 0
    absent: str = ""

    @property
    def differ(self) -> int:
        """On how many examples they differ."""
        return self.only_first + self.only_second


@dataclass(frozen=True)
class Pair:
    """Two verdicts that are compared, on one data set, under each condition; ``remark`` is what a reader must know."""

    first: str
    second: str
    data: str
    rows: tuple[Compared, ...]
    remark: str = ""

    @property
    def name(self) -> str:
        """``first and second``."""
        return f"{self.first} and {self.second}"

    @property
    def shown(self) -> tuple[Compared, ...]:
        """The conditions whose differences are shown, as many as the page has room for."""
        return tuple(row for row in self.rows if row.differences)[:CONDITIONS_SHOWN]


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Cohen's κ (1960) of two series of verdicts on the same things: agreement beyond that of chance.

    Returns:
        None where there is nothing to compare, and where both always say the same one thing, so that chance agrees too.

    Raises:
        ValueError: for series of unequal length.
    """
    pairs = list(zip(first, second, strict=True))
    if not pairs:
        return None
    n = len(pairs)
    agreed = sum(one == other for one, other in pairs)
    # In whole numbers, so that what is 0 or 1 is exactly that.
    by_chance = sum(list(first).count(value) * list(second).count(value) for value in set(first))
    return None if by_chance == n * n else (agreed * n - by_chance) / (n * n - by_chance)


def make_agreements(run: Run) -> dict[str, tuple[Pair, ...]]:
    """By data set, every pair of verdicts that have examples in common, in the order of the recipe."""
    entries = {one.name: one for one in run.results.evaluators if _is_verdict(one)}
    by_data: dict[str, list[Sample]] = {}
    for sample in run.samples:
        if sample.condition in run.conditions:
            by_data.setdefault(sample.data, []).append(sample)
    found: dict[str, tuple[Pair, ...]] = {}
    for data, samples in by_data.items():
        labels = _labels(samples, run.results.evaluators)
        names = [name for name in entries if any(name in sample.scores for sample in samples)]
        names += [LABEL] if labels and LABEL not in entries else []
        made = [_pair(run, one, other, data, samples, labels, entries) for one, other in combinations(names, 2)]
        if pairs := tuple(pair for pair in made if pair.rows):
            found[data] = pairs
    return found


def _is_verdict(entry: EvaluatorEntry) -> bool:
    return entry.aggregate == "proportion" and entry.compared is not False


def _pair(
    run: Run,
    first: str,
    second: str,
    data: str,
    samples: Sequence[Sample],
    labels: Mapping[int, bool],
    entries: Mapping[str, EvaluatorEntry],
) -> Pair:
    by_condition: dict[str, list[tuple[Sample, bool, bool]]] = {name: [] for name in run.conditions}
    for place, sample in enumerate(samples):
        one, other = (_verdict(sample, name, labels.get(place)) for name in (first, second))
        if one is not None and other is not None:
            by_condition[sample.condition].append((sample, one, other))
    missing = _missing(run, {first, second}, data, entries)
    rows = tuple(
        replace(_compare(name, judged), **missing.get(name, {}))
        for name, judged in by_condition.items()
        if judged or name in missing
    )
    asked = [entries[name].options.get("max_new_tokens") for name in (first, second) if name in entries]
    lengths = [length for length in asked if length is not None]
    remark = ""
    if len(lengths) == 2 and lengths[0] != lengths[1]:
        remark = f"{first} sees {counted(lengths[0], 'token')} of a completion, {second} {lengths[1]}"
    return Pair(first, second, data, rows, remark)


def _missing(
    run: Run, names: Collection[str], data: str, entries: Mapping[str, EvaluatorEntry]
) -> dict[str, dict[str, Any]]:
    """By condition, how many verdicts of a judge are missing, and the word for it."""
    judges = {name for name in names if name in entries and is_judge(entries[name])}
    found: dict[str, dict[str, Any]] = {}
    for one in run.results.records:
        if one.data == data and one.evaluator in judges and one.condition in run.conditions and one.not_computed:
            lacking = max(one.not_computed, found.get(one.condition, {}).get("lacking", 0))
            found[one.condition] = {"lacking": lacking, "absent": absent_word([one], judge=True)}
    return found


def _compare(condition: str, judged: Sequence[tuple[Sample, bool, bool]]) -> Compared:
    differing = [(sample, one, other) for sample, one, other in judged if one != other]
    return Compared(
        condition=condition,
        n=len(judged),
        only_first=sum(one for _, one, _ in differing),
        only_second=sum(other for _, _, other in differing),
        kappa=cohen_kappa([one for _, one, _ in judged], [other for _, _, other in judged]),
        differences=tuple(_difference(*item) for item in differing[:SHOWN]),
    )


def _difference(sample: Sample, first: bool, second: bool) -> Difference:
    completion = None if sample.completion is None else shorten(sample.completion, COMPLETION_LENGTH)
    return Difference(shorten(sample.prompt, PROMPT_LENGTH), completion, int(first), int(second))


def _verdict(sample: Sample, name: str, label: bool | None) -> bool | None:
    if name == LABEL and name not in sample.scores:
        return label
    score = sample.scores.get(name)
    return None if score not in (0.0, 1.0) else bool(score)


def _labels(samples: Sequence[Sample], evaluators: Sequence[EvaluatorEntry]) -> dict[int, bool]:
    """By the place of each sample that has one, what its label says; nothing where a label is no verdict, such as the
    name of a class."""
    words = _label_words(evaluators)
    given = {place: sample.example["label"] for place, sample in enumerate(samples) if "label" in sample.example}
    read = {place: _read_label(label, words) for place, label in given.items()}
    return {} if None in read.values() else {place: bool(label) for place, label in read.items()}


def _read_label(label: Any, words: Mapping[str, bool]) -> bool | None:
    if isinstance(label, (bool, int, float)):
        return bool(label) if label in (0, 1) else None
    text = str(label).strip().casefold()
    return words.get(text, _PLAIN_LABELS.get(text))


def _label_words(evaluators: Sequence[EvaluatorEntry]) -> dict[str, bool]:
    """The words of judges, with what they count; not one that counts differently with two of them."""
    said: dict[str, set[Any]] = {}
    for entry in evaluators:
        labels = entry.options.get("labels")
        for word, counts in labels.items() if isinstance(labels, Mapping) else ():
            said.setdefault(str(word).strip().casefold(), set()).add(counts)
    return {word: counts == {1} for word, counts in said.items() if counts in ({0}, {1})}
