"""How well conditions still predict text: one table of cross-entropies, a column for each kind of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from steerkit.artifacts.reading import ConditionEntry, EvaluatorEntry, Results, Run
from steerkit.errors import counted
from steerkit.report.numbers import NumberFormat
from steerkit.report.tables import Block, Row, make_blocks

_LEAST = 2
"""A table of one kind of text is there already."""


@dataclass(frozen=True)
class TextKind:
    """A kind of text that cross-entropy was measured on.

    Args:
        name: evaluator and data set, as records have them.
        what: which texts they are, in words.
        n: how many there are, or None where nothing was measured.
    """

    name: str
    what: str
    n: int | None


@dataclass(frozen=True)
class Cell:
    """A condition on a kind of text.

    Args:
        value: the mean of −log p over all tokens, or None where it was not measured.
        format: how it is written.
        change: its difference from the baseline on the same texts, with its interval; empty where there is none.
    """

    value: float | None
    format: NumberFormat
    change: str = ""


@dataclass(frozen=True)
class CrossEntropies:
    """The table: a row for each condition, a cell for each kind of text."""

    kinds: tuple[TextKind, ...]
    rows: tuple[tuple[ConditionEntry, tuple[Cell, ...]], ...]


def make_cross_entropies(run: Run, blocks: Sequence[Block] | None = None) -> CrossEntropies | None:
    """The table of a run; None where there are fewer than two kinds of text."""
    chosen = [block for block in blocks or make_blocks(run.results) if _is_cross_entropy(block.evaluator)]
    if len(chosen) < _LEAST:
        return None
    given = {sample.data for sample in run.samples if "completion" in sample.example}
    talks = _conversations(run)
    kinds = tuple(
        TextKind(
            block.name, text_kind(run.results, block.evaluator, block.data, given, talks), (block.n or (None, None))[1]
        )
        for block in chosen
    )
    by_condition = [{row.condition.name: row for row in block.all_rows} for block in chosen]
    conditions = [entry for entry in run.results.conditions if entry.kind != "control"]
    rows = tuple(
        (
            entry,
            tuple(_cell(rows.get(entry.name), block.format) for rows, block in zip(by_condition, chosen, strict=True)),
        )
        for entry in conditions
    )
    return CrossEntropies(kinds, rows)


def _is_cross_entropy(evaluator: EvaluatorEntry) -> bool:
    """By what it is: it gives nats per token, from which perplexity is derived."""
    return "perplexity" in evaluator.derived and evaluator.unit == "nats"


def _conversations(run: Run) -> dict[str, set[bool]]:
    """By data set of conversations, whether these end with an answer to what is before it, which alone is scored."""
    found: dict[str, set[bool]] = {}
    for sample in run.samples:
        turns = sample.example.get("messages")
        if isinstance(turns, list) and turns and "completion" not in sample.example:
            found.setdefault(sample.data, set()).add(len(turns) > 1 and turns[-1].get("role") == "assistant")
    return found


def text_kind(
    results: Results,
    evaluator: EvaluatorEntry,
    data: str,
    given: set[str],
    talks: Mapping[str, set[bool]] = MappingProxyType({}),
) -> str:
    """Which texts a cross-entropy is of, in words.

    Args:
        results: the run's.
        evaluator: with its options.
        data: the data set.
        given: data sets whose examples have completions.
        talks: by data set of conversations, whether some end with an answer, and some don't.
    """
    if evaluator.options.get("of") == "baseline_completions":
        told = counted(evaluator.options["max_new_tokens"], "token")
        return f"the model's own baseline completions of {data}, up to {told}"
    said = next((one for one in results.completions if one.data == data.partition(".")[0]), None)
    if said is not None:
        part = data.partition(".")[2]
        of = [one for one in said.of if one.partition(".")[2] == part] or said.of
        return f"what the model says to {', '.join(of)} under {said.condition}, without the prompts"
    if data in given:
        return f"the completions that {data} gives, without their prompts"
    limit = evaluator.options.get("max_tokens")
    if talks.get(data) == {True}:
        return f"the answers that conversations of {data} end with, without what is before them"
    if data in talks:
        some = "conversations of {data}, those that end with an answer by that answer alone, others whole"
        whole = "the whole conversations of {data}, the chat template's tokens included"
        return (some if len(talks[data]) > 1 else whole).format(data=data)
    return f"the texts of {data}" + (f", up to {counted(limit, 'token')} of each" if limit else "")


def _cell(row: Row | None, form: NumberFormat) -> Cell:
    record = None if row is None else row.record
    if row is None or record is None or record.value is None:
        return Cell(None, form)
    low, high = record.difference_ci_low, record.difference_ci_high
    if record.difference is None or row.condition.kind == "baseline":
        return Cell(record.value, form)
    if low is None or high is None:
        return Cell(record.value, form, f"{'+' if record.difference > 0 else ''}{form.number(record.difference)}")
    return Cell(record.value, form, form.change(record.difference, low, high))
