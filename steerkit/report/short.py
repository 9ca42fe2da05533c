"""The run in one paragraph, made from its numbers by plain rules, and where its evaluators disagree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from steerkit.report.agreement import Pair
from steerkit.report.findings import verdict
from steerkit.report.glance import inner_names, other_way
from steerkit.report.limits import every, is_verdict, limits_of
from steerkit.report.numbers import NOT_MEASURED, count, sentence_case, significant
from steerkit.report.read import Results
from steerkit.report.search import SearchView
from steerkit.report.tables import Block, Row

BEHAVIOURS: Final = 3
SIDE_EFFECTS: Final = 3
CONDITIONS: Final = 4
"""How many are spoken of; the tables hold the rest."""
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
    side = [block for block in own if block.evaluator.role == "side effect"]
    # Verdicts on what was said come first, those of a judge before those of rules.
    behaviours = [block for block in own if block not in side and block.evaluator.compared is not False]
    behaviours.sort(key=lambda block: (not is_verdict(block), block.evaluator.role != "judge"))
    # One for each data set, before a second one on the same.
    first = {block.data: block for block in reversed(behaviours)}
    told = [first[data] for data in dict.fromkeys(block.data for block in behaviours)][:BEHAVIOURS]
    finding = [_asked(results, own), *(_chosen(view) for view in searches), *(_behaviour(block) for block in told)]
    left = len(behaviours) - len(told)
    if left:
        text = f"{sentence_case(count(left, 'more measure'))} {'is' if left == 1 else 'are'} in the tables."
        finding.append(("", text))
    finding += _babble([block for block in behaviours if is_verdict(block) and _reads_completions(block)], own)
    finding += [_side_effect(block) for block in side[:SIDE_EFFECTS]]
    if own and not side:
        finding.append(("", "No side effect was measured."))
    return Short(tuple(finding), limits_of(own, searches, results.not_held_out), _disagreements(agreements))


def _asked(results: Results, own: Sequence[Block]) -> Sentence:
    model = results.model.source
    conditions = [entry for entry in results.conditions if entry.kind == "intervention"]
    if not own:
        return model, f": {count(len(results.directions), 'direction')}, and nothing was evaluated."
    if not conditions:
        return model, " was measured as it is: no condition was run, so nothing here tells of an effect."
    baseline = any(block.baseline is not None for block in own)
    beside = "compared with the model untouched (baseline)" if baseline else "without a baseline to compare with"
    return model, f" under {count(len(conditions), 'condition')}, {beside}."


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
    base = block.baseline
    before = "no baseline" if base is None else f"{_value(block, base)} without steering"
    size = f", n = {block.n[0]}" if block.n and block.n[0] == block.n[1] else ""
    inner = inner_names([block])
    rows = [row for row in block.rows if row.condition.name not in inner][:CONDITIONS]
    parts = [f": {before}{size}", *(_claim(block, row) for row in rows)]
    left = len(block.rows) - len(rows)
    parts += [f"{count(left, 'more condition')} in the table"] if left else []
    return block.name, f"{'; '.join(parts)}."


def _reads_completions(block: Block) -> bool:
    """Whether its evaluator has the model write; a monitor's verdicts, for one, are of prompts."""
    return bool(block.evaluator.options.get("max_new_tokens"))


def _babble(rates: Sequence[Block], own: Sequence[Block]) -> list[Sentence]:
    """Whether somebody looked if the completions, of which these are rates, make sense at all."""
    looked = {block.data for block in own if block.measured and block.evaluator.name.rpartition(".")[2] == DEGENERATE}
    unseen = list(dict.fromkeys(block.data for block in rates if block.measured and block.data not in looked))
    if not unseen:
        return []
    where = f" on {' and '.join([', '.join(unseen[:-1]), unseen[-1]] if unseen[1:] else unseen)}" if looked else ""
    text = f" of completions was {NOT_MEASURED}{where}: a model that babbles doesn’t refuse either."
    return [("Degeneration", text)]


def _value(block: Block, row: Row) -> str:
    if row.value is None:
        return NOT_MEASURED
    unit = f" {block.unit}" if block.unit else ""
    text = f"{block.format.number(row.value)}{unit}"
    return text if row.interval is None else f"{text} ({block.format.interval(*row.interval)})"


def _claim(block: Block, row: Row) -> str:
    """What a condition gives, and what its interval and its control let one say of that."""
    said = f"{_value(block, row)} under {row.condition.name}"
    moved, found = _moved(row), verdict(row)
    if row.value is None:
        return said
    if moved is False:
        return f"{said}, no change shown"
    if found == "within":
        return f"{said}, which random directions of the same norm reach as well"
    if moved is None:
        return f"{said}, with no interval of the change"
    share = other_way(row.record) if row.record is not None and row.record.against else ""
    exceptions = f" (on {share} of the prompts it goes the other way)" if share else ""
    if found == "beyond" and row.control is not None:
        return f"{said}, beyond {every(len(row.control.values))}{exceptions}"
    alone = "which has no control" if row.condition.prompt_only else "with no range of random directions beside it"
    return f"{said}, {alone}{exceptions}"


def _moved(row: Row) -> bool | None:
    """Whether the paired interval of the change leaves out 0; None where there is none."""
    record = row.record
    if record is None or record.difference_ci_low is None or record.difference_ci_high is None:
        return None
    return record.difference_ci_low > 0 or record.difference_ci_high < 0


def _side_effect(block: Block) -> Sentence:
    """The condition that is furthest from the baseline."""
    base = block.baseline.value if block.baseline else None
    measured = [row for row in block.rows if row.value is not None]
    if base is None or not measured:
        return f"Side effect {block.name}", f": {NOT_MEASURED if not measured else 'no baseline to compare with'}."
    most = max(measured, key=lambda row: abs((row.value or 0.0) - base))
    before = f"{block.format.number(base)} without steering, " if base else ""
    shown = ", no change shown" if _moved(most) is False else ""
    return f"Side effect {block.name}", f": {before}at most {_value(block, most)} under {most.condition.name}{shown}."


def _disagreements(agreements: Mapping[str, Sequence[Pair]]) -> tuple[str, ...]:
    return tuple(_disagreement(pair, data) for data, pairs in agreements.items() for pair in pairs)


def _disagreement(pair: Pair, data: str) -> str:
    rows, differ = pair.rows, sum(row.differ for row in pair.rows)
    of = sum(row.n for row in rows)
    over = f" under {count(len(rows), 'condition')}" if len(rows) > 1 else f" under {rows[0].condition}"
    if not differ:
        return f"{pair.name} on {data}: alike on all {of} examples{over}."
    worst = max(rows, key=lambda row: row.differ / row.n)
    kappa = "no κ" if worst.kappa is None else f"κ {significant(worst.kappa, 2)}"
    most = f", most of them under {worst.condition}: {worst.differ} of {worst.n}" if len(rows) > 1 else ""
    return f"{pair.name} on {data}: they differ on {differ} of {of} examples{over}{most} ({kappa})."
