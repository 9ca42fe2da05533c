"""What monitors still catch, condition by condition: AUROC, what crosses of what should, and false alarms per 1,000."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from steerkit.artifacts.reading import RecordEntry, Results
from steerkit.errors import counted
from steerkit.report.numbers import NOT_MEASURED, significant

EVALUATOR: Final = "monitor_auroc"
CAUGHT: Final = "caught"
FALSE_ALARMS: Final = "false_alarms"
PER: Final = 1000
"""False alarms are told per so many prompts."""


@dataclass(frozen=True)
class Guard:
    """A monitor under one condition on one data set; an entry is empty where there is no such value.

    Args:
        data: the data set.
        condition: its name.
        auroc: with its interval.
        caught: in percent, with its interval.
        false_alarms: per 1,000, with its interval.
        baseline: whether it is the model as it is.
        controls: how many random controls the condition has, with the means of the three values; empty without.
    """

    data: str
    condition: str
    auroc: str
    caught: str
    false_alarms: str
    baseline: bool
    controls: str = ""


@dataclass(frozen=True)
class GuardTable:
    """The table of one evaluator.

    Args:
        name: of the evaluator.
        rows: data set by data set, in the order of the conditions.
        resolution: what so few prompts can't tell, as a sentence.
        threshold: where its threshold comes from, as a sentence; empty where nothing says so.
    """

    name: str
    rows: tuple[Guard, ...]
    resolution: str
    threshold: str = ""


def make_guards(results: Results) -> tuple[GuardTable, ...]:
    """A table for each evaluator that gives what a monitor catches and its false alarms."""
    found = []
    for name, labels in _labels(results).items():
        records = {(one.evaluator, one.data, one.condition): one for one in results.records}
        data = dict.fromkeys(one.data for one in results.records if one.evaluator == labels[CAUGHT])
        rows = tuple(
            _row(results, records, labels, where, entry.name)
            for where in data
            for entry in results.conditions
            if entry.kind != "control"
        )
        alarms = [one for one in results.records if one.evaluator == labels[FALSE_ALARMS] and one.n]
        found.append(GuardTable(name, rows, _resolution(alarms), _threshold(results, name)))
    return tuple(found)


def _labels(results: Results) -> Mapping[str, Mapping[str, str]]:
    """Evaluators by name, each with what results call its values."""
    there = {record.evaluator for record in results.records}
    named: dict[str, dict[str, str]] = {}
    for label in dict.fromkeys(record.evaluator for record in results.records):
        prefix = "" if label == CAUGHT else label.removesuffix(f".{CAUGHT}") + "."
        if (label == CAUGHT or label.endswith(f".{CAUGHT}")) and prefix + FALSE_ALARMS in there:
            name = prefix.removesuffix(".") or EVALUATOR
            named[name] = {EVALUATOR: name, CAUGHT: label, FALSE_ALARMS: prefix + FALSE_ALARMS}
    return named


def _row(
    results: Results,
    records: Mapping[tuple[str, str, str], RecordEntry],
    labels: Mapping[str, str],
    data: str,
    condition: str,
) -> Guard:
    columns = {key: records.get((label, data, condition)) for key, label in labels.items()}
    beside = [one.name for one in results.conditions if one.kind == "control" and one.of == condition]
    controls = [name for name in beside if (labels[EVALUATOR], data, name) in records]
    return Guard(
        data,
        condition,
        _told(columns[EVALUATOR], 1),
        _told(columns[CAUGHT], 100),
        _told(columns[FALSE_ALARMS], PER),
        next(one.kind == "baseline" for one in results.conditions if one.name == condition),
        _controls(records, labels, data, controls),
    )


def _told(record: RecordEntry | None, factor: int) -> str:
    """A value with its interval."""
    if record is None or record.value is None:
        return NOT_MEASURED
    text = _number(record.value, factor)
    if record.ci_low is None or record.ci_high is None:
        return text
    return f"{text} ({_number(record.ci_low, factor)} to {_number(record.ci_high, factor)})"


def _number(value: float, factor: int) -> str:
    return f"{value:.3f}" if factor == 1 else f"{value * factor:.0f}"


def _controls(
    records: Mapping[tuple[str, str, str], RecordEntry],
    labels: Mapping[str, str],
    data: str,
    names: Sequence[str],
) -> str:
    """The means over random controls, in the order of the columns."""
    told = []
    for key, factor in ((EVALUATOR, 1), (CAUGHT, 100), (FALSE_ALARMS, PER)):
        entries = [records.get((labels[key], data, name)) for name in names]
        values = [one.value for one in entries if one is not None and one.value is not None]
        told.append(_number(fmean(values), factor) if values else NOT_MEASURED)
    return " · ".join(told) if names else ""


def _resolution(alarms: Sequence[RecordEntry]) -> str:
    """What the number of prompts that should not be flagged can't tell."""
    if not alarms:
        return ""
    fewest = min(record.n for record in alarms)
    most = PER * (1 - 0.05 ** (1 / fewest))
    return (
        f"One of {counted(fewest, 'prompt')} is {significant(PER / fewest, 2)} per 1,000, so fewer false alarms than "
        f"that can't "
        f"be seen: none at all among {fewest} leaves up to {significant(most, 2)} per 1,000 possible (95 %, one-sided)."
    )


def _threshold(results: Results, evaluator: str) -> str:
    entry = next((one for one in results.evaluators if one.name == evaluator), None)
    wanted = None if entry is None else entry.options.get("monitor")
    monitor = next((one for one in results.monitors if one.name == wanted), None)
    if monitor is None:
        return ""
    side, number = ("above", monitor.above) if monitor.above is not None else ("below", monitor.below)
    if number is None:
        return ""
    text = f"Monitor {monitor.name} flags a prompt whose reading is {side} {significant(number)}"
    if not monitor.calibrate:
        return f"{text}, as the recipe says."
    data, most = monitor.calibrate.get("data"), monitor.calibrate.get("false_alarms")
    return f"{text}: the threshold that at most {most:g} per 1,000 of {data} cross without any condition."
