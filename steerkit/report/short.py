"""The run in one paragraph, made from its numbers by plain rules, and where its evaluators disagree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from steerkit.artifacts.reading import Results
from steerkit.errors import counted
from steerkit.report.absent import common_word
from steerkit.report.agreement import Pair
from steerkit.report.findings import verdict
from steerkit.report.glance import inner_names, other_way
from steerkit.report.headline import behaviours, told_first, unjudged
from steerkit.report.limits import every, is_verdict, limits_of, reads_completions
from steerkit.report.numbers import (
    NO_BREAK,
    NOT_ALL_JUDGED,
    NOT_JUDGED,
    NOT_MEASURED,
    count,
    joined,
    sentence_case,
    significant,
)
from steerkit.report.placed import quantised
from steerkit.report.search import SearchView
from steerkit.report.tables import Block, Row

BEHAVIOURS: Final = 3
SIDE_EFFECTS: Final = 3
CONDITIONS: Final = 6
"""How many are spoken of; the tables hold the rest."""
MORE_NAMED: Final = 4
"""Further measures that are named."""
ONE_MORE: Final = count(1, "more measure")
NO_CHANGE: Final = "No change shown"
SAID_BY_NAME: Final = (NO_CHANGE, *map(sentence_case, (NOT_MEASURED, NOT_JUDGED, NOT_ALL_JUDGED)))
"""Of these only the conditions are told."""
DEGENERATE: Final = "degenerate"
"""What evaluators call the share of completions that repeat themselves; behind their own name where they have one."""


Sentence: TypeAlias = tuple[str, str]


@dataclass(frozen=True)
class Short:
    """The first page.

    Args:
        finding: sentences of one paragraph, each as what it is about, in bold type, and the rest of it.
        limits: what can't be concluded, a sentence each.
        disagreements: for each two verdicts on the same examples, on how many they differ.
    """

    finding: tuple[Sentence, ...]
    limits: tuple[str, ...]
    disagreements: tuple[str, ...]


def make_short(
    results: Results, blocks: Sequence[Block], searches: Sequence[SearchView], agreements: Mapping[str, Sequence[Pair]]
) -> Short:
    """The paragraph of a run, whatever it holds."""
    own = [block for block in blocks if block.derived_from is None]
    every_one = behaviours(blocks)
    told, further = _beyond_first(every_one, told_first(blocks, results.tradeoff, BEHAVIOURS))
    finding = [_asked(results, own), *(_chosen(view) for view in searches), *(_behaviour(block) for block in told)]
    left = [count(number, "more measure")] if (number := len(every_one) - len(told)) else []
    left += ["the conditions within sweeps"] if inner_names(told) else []
    if left:
        named = f"; beyond random directions there: {joined(further)}" if further else ""
        finding.append(
            ("", f"{sentence_case(' and '.join(left))} {'is' if left == [ONE_MORE] else 'are'} in the tables{named}.")
        )
    # Told already where nothing else was measured there.
    finding += _unjudged([block for block in unjudged(own) if block not in told])
    finding += _babble([block for block in every_one if is_verdict(block) and reads_completions(block)], own)
    side = _kinds([block for block in own if block.evaluator.role == "side effect"])
    finding += [_side_effect(kind) for kind in side[:SIDE_EFFECTS]]
    if own and not side:
        finding.append(("", "No side effect was measured."))
    known = (*quantised(results.model), *results.not_held_out, *results.special_tokens)
    return Short(tuple(finding), limits_of(own, searches, known), _disagreements(results, agreements))


def _asked(results: Results, own: Sequence[Block]) -> Sentence:
    model = results.model.source
    conditions = [entry for entry in results.conditions if entry.kind == "intervention"]
    if not own:
        return model, f": {count(len(results.directions), 'direction')}, and nothing was evaluated."
    if not conditions:
        return model, " was measured as it is: no condition was run, so nothing here tells of an effect."
    baseline = any(block.baseline is not None for block in own)
    beside = "compared with the model untouched (baseline)" if baseline else "without a baseline to compare with"
    brackets = f"; in brackets are 95{NO_BREAK}% intervals"
    return model, f" under {count(len(conditions), 'condition')}, {beside}{brackets}."


def _chosen(view: SearchView) -> Sentence:
    name, total, ties = view.entry.name, len(view.entry.candidates), len(view.near_ties)
    if view.chosen is None:
        return f"Direction {name}", f" could not be chosen: none of {count(total, 'candidate')} kept to every bound."
    sure = "no other one is within one paired standard error of it"
    if ties:
        others = count(ties, "other one is", "other ones are")
        sure = f"{others} within one paired standard error of it, so these prompts don’t tell which of them is best"
    where = f"{view.chosen.site}, {view.label(view.chosen)}"
    return f"Direction {name}", f" was chosen among {count(total, 'candidate')} at {where}; {sure}."


def _behaviour(block: Block) -> Sentence:
    """The value without steering, then the conditions by what their intervals and controls let one say of them."""
    base = block.baseline
    before = "no baseline" if base is None else f"{_value(block, base)} without steering"
    size = f" (n{NO_BREAK}={NO_BREAK}{block.n[0]})" if block.n and block.n[0] == block.n[1] else ""
    inner = inner_names([block])
    kinds: dict[str, list[Row]] = {}
    for row in block.rows:
        if row.condition.name not in inner:
            kinds.setdefault(_kind(row), []).append(row)
    order = sorted(kinds, key=lambda kind: (not kind.startswith("Beyond"), kind in SAID_BY_NAME))
    parts = [f"{size}: {before}", *(f"{kind}: {_told(block, kind, kinds[kind])}" for kind in order)]
    return block.name, f"{'. '.join(parts)}."


def _beyond_first(every_one: Sequence[Block], told: Sequence[Block]) -> tuple[list[Block], list[str]]:
    """What is told, in which what lies beyond its controls leads, and the names of further measures that do.

    Where nothing that would be told lies beyond its controls, others that do come before it.
    """
    others = [block for block in every_one if block not in told and _beyond(block)]
    leading = [] if any(map(_beyond, told)) else others[:BEHAVIOURS]
    further = [f"{block.name} (under {_listed(_beyond(block))})" for block in others if block not in leading]
    more = [f"{len(further) - MORE_NAMED} more"] if len(further) > MORE_NAMED else []
    return [*leading, *sorted(told, key=lambda block: not _beyond(block))], [*further[:MORE_NAMED], *more]


def _beyond(block: Block) -> list[str]:
    """Conditions whose change shows, and is beyond that of every random direction."""
    inner = inner_names([block])
    return [
        row.condition.name
        for row in block.rows
        if row.condition.name not in inner and verdict(row) == "beyond" and _moved(row) is not False
    ]


def _listed(names: Sequence[str]) -> str:
    return joined(names if len(names) <= CONDITIONS else [*names[:CONDITIONS], f"{len(names) - CONDITIONS} more"])


def _kind(row: Row) -> str:
    """What a condition's interval and its control let one say of it."""
    moved, found = _moved(row), verdict(row)
    if row.value is None:
        return sentence_case(row.absent)
    if moved is False:
        return NO_CHANGE
    if found == "within":
        return "No further than random directions of the same norm"
    if moved is None:
        return "With no interval of the change"
    if found == "beyond" and row.control is not None:
        return f"Beyond {every(len(row.control.values))}"
    return "Without control" if row.condition.prompt_only else "With no range of random directions beside it"


def _told(block: Block, kind: str, rows: Sequence[Row]) -> str:
    """Values with the conditions that have them, or, where nothing is to be seen, the conditions alone."""
    if kind in SAID_BY_NAME:
        return _listed([row.condition.name for row in rows])
    shown = rows[:CONDITIONS]
    values: dict[tuple[str, str], list[str]] = {}
    for row in shown:
        share = other_way(row.record) if row.record is not None and row.record.against else ""
        exceptions = f" (on {share} of the prompts it goes the other way)" if share else ""
        values.setdefault((_value(block, row), exceptions), []).append(row.condition.name)
    said = [f"{value} under {joined(names)}{exceptions}" for (value, exceptions), names in values.items()]
    left = len(rows) - len(shown)
    return "; ".join([*said, *([f"{count(left, 'more', 'more')} in the table"] if left else [])])


def _unjudged(blocks: Sequence[Block]) -> list[Sentence]:
    """That a judge was asked, and of what it said nothing."""
    by_name: dict[str, list[Block]] = {}
    for block in blocks:
        by_name.setdefault(block.evaluator.name, []).append(block)
    return [
        (f"{name} on {joined([block.data for block in some])}", f": {common_word(block.absent for block in some)}.")
        for name, some in by_name.items()
    ]


def _babble(rates: Sequence[Block], own: Sequence[Block]) -> list[Sentence]:
    """Whether somebody looked if the completions, of which these are rates, make sense at all."""
    looked = {block.data for block in own if block.measured and block.evaluator.name.rpartition(".")[2] == DEGENERATE}
    unseen = list(dict.fromkeys(block.data for block in rates if block.measured and block.data not in looked))
    if not unseen:
        return []
    where = f" on {joined(unseen)}" if looked else ""
    text = f" of completions was {NOT_MEASURED}{where}: a model that babbles doesn’t refuse either."
    return [("Degeneration", text)]


def _value(block: Block, row: Row) -> str:
    if row.value is None:
        return row.absent
    unit = f" {block.unit}" if block.unit else ""
    text = f"{block.format.number(row.value)}{unit}"
    return text if row.interval is None else f"{text} ({block.format.interval(*row.interval)})"


def _moved(row: Row) -> bool | None:
    """Whether the paired interval of the change leaves out 0; None where there is none."""
    record = row.record
    if record is None or record.difference_ci_low is None or record.difference_ci_high is None:
        return None
    return record.difference_ci_low > 0 or record.difference_ci_high < 0


def _kinds(side: Sequence[Block]) -> list[list[Block]]:
    """Side effects by kind: of what measures the same in several ways, or on several data sets, the first way."""
    kinds: dict[str, list[Block]] = {}
    for block in side:
        kind = kinds.setdefault(block.evaluator.summary or block.evaluator.name, [])
        if not kind or kind[0].evaluator.name == block.evaluator.name:
            kind.append(block)
    return list(kinds.values())


def _side_effect(kind: Sequence[Block]) -> Sentence:
    """The first condition, and the one that is furthest from the baseline on any data set."""
    found = [
        (abs(row.value - block.baseline.value), block, row)
        for block in kind if block.baseline is not None and block.baseline.value is not None
        for row in block.rows if row.value is not None
    ]  # fmt: skip
    if not found:
        measured = any(row.value is not None for block in kind for row in block.rows)
        absent = common_word(block.absent for block in kind)
        return f"Side effect {kind[0].name}", f": {'no baseline to compare with' if measured else absent}."
    _, block, most = max(found, key=lambda one: one[0])
    assert block.baseline is not None and block.baseline.value is not None and most.value is not None
    base = block.baseline.value
    parts = [f"{block.format.number(base)} without steering"] if base else []
    first = next(row for row in block.rows if row.value is not None)
    parts += [f"{_value(block, first)} under {first.condition.name}"] if first is not most else []
    shown = ", no change shown" if _moved(most) is False else ""
    end = "down to" if most.value < base else "at most"
    parts.append(f"{end} {_value(block, most)} under {most.condition.name}{shown}")
    return f"Side effect {block.name}", f": {', '.join(parts)}."


def _disagreements(results: Results, agreements: Mapping[str, Sequence[Pair]]) -> tuple[str, ...]:
    """A sentence for each two verdicts, over all data sets of which there are both."""
    by_name: dict[str, list[Pair]] = {}
    for pairs in agreements.values():
        for pair in pairs:
            if any(row.n for row in pair.rows):
                by_name.setdefault(pair.name, []).append(pair)
    kinds = {entry.name: entry.kind for entry in results.conditions}
    return tuple(_disagreement(name, pairs, kinds) for name, pairs in by_name.items())


def _under(names: Sequence[str], kinds: Mapping[str, str]) -> str:
    """``the baseline, two conditions and four random directions``; a single one by its name."""
    if len(names) == 1:
        return names[0]
    told = [kinds.get(name, "intervention") for name in names]
    parts = ["the baseline"] if "baseline" in told else []
    parts += [count(number, "condition")] if (number := told.count("intervention")) else []
    parts += [count(number, "random direction")] if (number := told.count("control")) else []
    return joined(parts)


def _disagreement(name: str, pairs: Sequence[Pair], kinds: Mapping[str, str]) -> str:
    rows = [(pair, row) for pair in pairs for row in pair.rows if row.n]
    conditions = list(dict.fromkeys(row.condition for _, row in rows))
    over = f" under {_under(conditions, kinds)}"
    where = f"{name} on {joined([pair.data for pair in pairs])}"
    if not any(row.differ for _, row in rows):
        return f"{where}: alike on all {counted(sum(row.n for _, row in rows), 'example')}{over}."
    pair, worst = max(rows, key=lambda one: one[1].differ / one[1].n)
    kappa = "no κ" if worst.kappa is None else f"κ {significant(worst.kappa, 2)}"
    place = f"{worst.condition}{f' on {pair.data}' if len(pairs) > 1 else ''}"
    most = f", most of them under {place}: {worst.differ} of {worst.n}" if len(rows) > 1 else ""
    counts = [f"{sum(row.differ for row in one.rows)} of {sum(row.n for row in one.rows)}" for one in pairs]
    return f"{where}: they differ on {joined(counts)} examples{over}{most} ({kappa})."
