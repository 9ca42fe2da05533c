"""What was found, in sentences that are made from the numbers. No claim without its interval and its control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

from steerkit.errors import counted
from steerkit.report.absent import common_word, done
from steerkit.report.numbers import NO_BREAK, NOT_MEASURED, count, sentence_case, setting
from steerkit.report.tables import Block, Control, Row, Sweep

Verdict = Literal["beyond", "within", "no control", "not measured"]

VERDICTS: Final[dict[Verdict, str]] = {
    "beyond": "outside control range",
    "within": "inside control range",
    "no control": "no control range",
    "not measured": NOT_MEASURED,
}

UNCONTROLLED: Final = "so the numbers do not say whether any other direction of that norm would do the same."
MOST: Final = 8
"""Sentences per block; tables and plots hold the rest."""


@dataclass(frozen=True)
class Finding:
    """One sentence or two about a condition or a sweep.

    Args:
        subject: the condition's or the sweep's name.
        text: what follows the subject.
        verdict: the value against the control's range.
        label: the verdict in a few words.
        value: the number by itself, for a list; of a sweep those at its ends. Empty where there is none.
    """

    subject: str
    text: str
    verdict: Verdict
    label: str
    value: str = ""


@dataclass(frozen=True)
class Alike:
    """Findings of one verdict, as a list: each value with the conditions that have it."""

    verdict: Verdict
    label: str
    values: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class BlockFindings:
    """The findings of one block, and how many conditions they leave to the table."""

    block: Block
    baseline: str
    findings: tuple[Finding, ...]
    left_out: int

    @property
    def alike(self) -> tuple[Alike, ...]:
        """The findings by their verdicts, in the order in which these first come; nothing of a sentence but its end."""
        groups: dict[tuple[Verdict, str], dict[str, list[str]]] = {}
        for one in self.findings:
            groups.setdefault((one.verdict, one.label), {}).setdefault(one.value, []).append(one.subject)
        order = sorted(groups, key=lambda key: key[0] != "beyond")
        return tuple(Alike(*key, tuple((value, tuple(names)) for value, names in groups[key].items())) for key in order)


def verdict(row: Row) -> Verdict:
    """A condition's value against the range of its random directions."""
    if row.value is None:
        return "not measured"
    if row.control is None or len(row.control.values) < 2:
        return "no control"
    return "within" if row.control.contains(row.value) else "beyond"


def make_findings(blocks: Sequence[Block]) -> tuple[BlockFindings, ...]:
    """The findings of every block that isn't derived from another one, in order."""
    return tuple(_find(block) for block in blocks if block.derived_from is None)


def _find(block: Block) -> BlockFindings:
    in_sweeps = {row.condition.name for sweep in block.sweeps for _, row in sweep.points if len(sweep.points) > 1}
    single = [row for row in block.rows if row.condition.name not in in_sweeps]
    sweeps = [sweep for sweep in block.sweeps if len(sweep.points) > 1]
    shown = single[: max(MOST - len(sweeps), 1)]
    findings = [_about_condition(block, row) for row in shown] + [_about_sweep(block, sweep) for sweep in sweeps]
    return BlockFindings(block, _about_baseline(block), tuple(findings), len(single) - len(shown))


def value_with_interval(block: Block, row: Row) -> str:
    """``2.3 nats (95 % interval 1.9 to 2.7)``, or why there is no interval."""
    if row.value is None or row.record is None:
        return row.absent
    unit = f" {block.unit}" if block.unit else ""
    text = f"{block.format.number(row.value)}{unit}"
    if row.interval is not None:
        point = ", one value in nearly every draw of the examples" if row.at_its_end else ""
        return f"{text} (95{NO_BREAK}% interval {block.format.interval(*row.interval)}{point})"
    reason = "one example, so no interval" if row.record.n == 1 else "no interval"
    return f"{text} ({reason})"


def _about_baseline(block: Block) -> str:
    if block.baseline is None:
        return "There is no baseline in this run."
    if block.baseline.value is None:
        return f"Without steering (baseline): {block.baseline.absent}."
    record = block.baseline.record
    examples = f", {count(record.n, 'example')}" if record else ""
    return f"Without steering (baseline): {value_with_interval(block, block.baseline)}{examples}."


def _about_condition(block: Block, row: Row) -> Finding:
    if row.value is None:
        return Finding(row.condition.name, f"was {row.absent}.", "not measured", row.absent)
    before = block.baseline.value if block.baseline else None
    after = value_with_interval(block, row)
    moved = f"gives {after}" if before is None else f"moves it from {block.format.number(before)} to {after}"
    if before is not None and block.format.number(before) == block.format.number(row.value):
        moved = f"leaves it at {after}"
    parts = [f"{moved}{_change(block, row) or _overlap(block, row)}.", _about_control(block, row)]
    found = verdict(row)
    value = f"{block.format.number(row.value)}{f' {block.unit}' if block.unit else ''}"
    if found == "beyond" and _may_be_nothing(row):
        return Finding(row.condition.name, " ".join(parts), "within", "no change shown", value)
    return Finding(row.condition.name, " ".join(parts), found, VERDICTS[found], value)


def _may_be_nothing(row: Row) -> bool:
    """Whether the paired interval of the change includes 0."""
    record = row.record
    if record is None or record.difference_ci_low is None or record.difference_ci_high is None:
        return False
    return record.difference_ci_low <= 0 <= record.difference_ci_high


def _change(block: Block, row: Row) -> str:
    """The paired difference, which is tighter than two intervals side by side; empty where there is none."""
    record = row.record
    if record is None or record.difference is None or record.difference_ci_low is None:
        return ""
    low, high = record.difference_ci_low, record.difference_ci_high
    if high is None:
        return ""
    text = f"; on the same examples it changes by {block.format.change(record.difference, low, high)}"
    return text if low > 0 or high < 0 else f"{text}, an interval that includes no change"


def _overlap(block: Block, row: Row) -> str:
    if block.baseline is None or block.baseline.interval is None or row.interval is None:
        return ""
    low, high = block.baseline.interval
    overlap = row.interval[0] <= high and low <= row.interval[1]
    return "; this interval and the baseline’s overlap" if overlap else "; the baseline’s interval is apart from it"


def _about_control(block: Block, row: Row) -> str:
    control = row.control
    if row.condition.prompt_only:
        return "A system prompt has no direction that a random one could stand for."
    if control is None or not control.planned:
        return f"No control was run, {UNCONTROLLED}"
    if not control.values:
        return f"Its control was {control.absent}."
    unit = f" {block.unit}" if block.unit else ""
    inside = verdict(row) == "within"
    doubt = ", so its effect here is not told apart from a random direction’s" if inside else ""
    if len(control.values) == 1:
        lead = f"{_directions(control)} of the same norm gives {block.format.number(control.mean)}{unit}"
        return f"{lead}: a single one has no range to compare with."
    if control.low == control.high:
        lead = f"{_directions(control)} of the same norm all give {block.format.number(control.mean)}{unit}"
        return f"{lead}; so does it{doubt}." if inside else f"{lead}; it does not."
    spread = f"between {_low_and_high(block, control.values)}{unit}"
    lead = f"{_directions(control)} of the same norm give values {spread} (mean {block.format.number(control.mean)})"
    return f"{lead}; it lies {'inside' if inside else 'outside'} their range{doubt}."


def _low_and_high(block: Block, values: Sequence[float]) -> str:
    """The lowest and the highest of them in one notation: ``0.1 and 0.3``."""
    low, high = block.format.alike(min(values), max(values))
    percent = f"{NO_BREAK}%" if block.format.percent else ""
    return f"{low}{percent} and {high}{percent}"


def _directions(control: Control) -> str:
    measured = len(control.values)
    if measured < control.planned:
        return f"The {measured} {done(control.absent)} of {count(control.planned, 'random direction')}"
    return sentence_case(count(measured, "random direction"))


def _about_sweep(block: Block, sweep: Sweep) -> Finding:
    measured = [(x, row) for x, row in sweep.points if row.value is not None]
    missing = len(sweep.points) - len(measured)
    absent = common_word(row.absent for _, row in sweep.points if row.value is None)
    if not measured:
        return Finding(sweep.name, f"was {absent} at any {sweep.option}.", "not measured", absent)
    (first, first_row), (last, last_row) = measured[0], measured[-1]
    text = (
        f"over {sweep.option} {setting(first)} to {setting(last)}: "
        f"{value_with_interval(block, first_row)} at {setting(first)}"
    )
    if len(measured) > 1:
        text += f", {value_with_interval(block, last_row)} at {setting(last)}"
    text += f"{_trend(block, sweep, measured)}."
    if missing:
        text += f" {sentence_case(count(missing, 'point'))} of the sweep {_was(missing)} {absent}."
    found, label = _sweep_verdict([row for _, row in measured])
    ends = [block.format.number(row.value) for row in (first_row, last_row)]
    value = " to ".join(ends if len(measured) > 1 else ends[:1]) + (f" {block.unit}" if block.unit else "")
    return Finding(sweep.name, f"{text} {_sweep_control(block, measured)}", found, label, value)


def _was(number: int) -> str:
    return "was" if number == 1 else "were"


def _trend(block: Block, sweep: Sweep, measured: Sequence[tuple[float, Row]]) -> str:
    points = [(x, row.value) for x, row in measured if row.value is not None]
    anchor = block.baseline.value if block.baseline and sweep.through_baseline else None
    has_zero = any(x == 0 for x, _ in points)
    if anchor is not None and not has_zero and points[0][0] < 0 < points[-1][0]:
        points = sorted([*points, (0.0, anchor)])
    steps = [after[1] - before[1] for before, after in pairwise(points)]
    if len(steps) < 2:
        return ""
    if not any(steps):
        return "; it is the same at every point"
    if all(step > 0 for step in steps):
        return f"; it rises at each of the {count(len(steps), 'step')}"
    if all(step < 0 for step in steps):
        return f"; it falls at each of the {count(len(steps), 'step')}"
    return "; it does not move one way throughout"


def _sweep_control(block: Block, measured: Sequence[tuple[float, Row]]) -> str:
    rows = [row for _, row in measured if row.control is not None and row.control.values]
    values = [value for row in rows if row.control for value in row.control.values]
    if not values:
        absent = common_word(row.control.absent for _, row in measured if row.control is not None)
        return f"No control was {done(absent)}, {UNCONTROLLED}"
    unit = f" {block.unit}" if block.unit else ""
    spread = f"between {_low_and_high(block, values)}{unit}"
    outside = sum(verdict(row) == "beyond" for row in rows)
    return (
        f"Over the whole sweep, random directions of the same norm give values {spread}; compared point by point, the "
        f"direction lies outside their range at {outside} of {counted(len(rows), 'point')}."
    )


def _sweep_verdict(rows: Sequence[Row]) -> tuple[Verdict, str]:
    """All points outside, all inside, or how many are outside."""
    compared = [found for found in map(verdict, rows) if found in ("beyond", "within")]
    if not compared:
        return "no control", VERDICTS["no control"]
    outside = compared.count("beyond")
    if outside == len(compared) and all(_may_be_nothing(row) for row in rows):
        return "within", "no change shown"
    if outside in (0, len(compared)):
        return compared[0], VERDICTS[compared[0]]
    return "within", f"outside at {outside} of {len(compared)}"
