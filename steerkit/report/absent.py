"""Why a value isn't there, in two or three words: the one place that decides them, for whatever shows values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from steerkit.artifacts.reading import EvaluatorEntry, RecordEntry
from steerkit.report.numbers import NOT_ALL_JUDGED, NOT_JUDGED, NOT_MEASURED


def is_judge(evaluator: EvaluatorEntry) -> bool:
    """Whether its values are verdicts that somebody else gives, and may not have given."""
    return evaluator.role == "judge"


def absent_word(records: Sequence[RecordEntry | None], judge: bool) -> str:
    """Why there is no value: a judge's examples may lack their verdicts, all or some.

    Args:
        records: those that the value would be of; None where there is none.
        judge: whether the evaluator is one, see ``is_judge``.
    """
    known = [one for one in records if one is not None]
    if not judge or not any(one.not_computed for one in known):
        return NOT_MEASURED
    return NOT_ALL_JUDGED if any(one.n for one in known) else NOT_JUDGED


def absent_score(judge: bool) -> str:
    """Why a single example has no score."""
    return NOT_JUDGED if judge else NOT_MEASURED


def common_word(words: Iterable[str]) -> str:
    """One word for several absences: theirs where it is one, ``not measured`` where they differ in kind."""
    said = set(words)
    if len(said) == 1:
        return said.pop()
    return NOT_ALL_JUDGED if said and said <= {NOT_JUDGED, NOT_ALL_JUDGED} else NOT_MEASURED


def done(word: str) -> str:
    """What wasn't done, by the word that says so: ``measured`` or ``judged``."""
    return word.rpartition(" ")[2]
