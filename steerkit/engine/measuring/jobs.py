"""What is scored, and what a condition gave."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from steerkit.api.evaluator import Evaluator, Outputs, Score, Scored
from steerkit.api.hookspecs import Needs
from steerkit.api.intervention import Placement
from steerkit.engine.lowering.edits import Mode
from steerkit.errors import PluginError, counted
from steerkit.sharing import Sampling, impossible

if TYPE_CHECKING:
    from steerkit.api.monitor import Readings

BASELINE: Final = "baseline"
IDLE: Final = "its interventions do nothing, as with coefficient 0, so it is the baseline."
Completions: TypeAlias = list[list[int]]
Cause: TypeAlias = Literal["gate", "text", "positions"]
"""What chooses the tokens of an edit that doesn't act everywhere."""
Activity: TypeAlias = Mapping[tuple[str, str], Mapping[tuple[str, Cause], int]]
"""``{(data, kind of pass): {(when an edit acts, what chooses): how many tokens it edited}}``."""


@dataclass(frozen=True, eq=False)
class Steered:
    """What outputs are looked at under.

    Args:
        placements: interventions, in order.
        system_prompt: takes the place of the model's own system prompt, and of an example's own system turn.
        mode: how the interventions are lowered; see ``Runtime.steer``.
    """

    placements: tuple[Placement, ...] = ()
    system_prompt: str | None = None
    mode: Mode = "auto"


@dataclass(frozen=True, eq=False)
class Job:
    """One evaluator on one data set.

    Args:
        name: as records call it.
        evaluator: the evaluator.
        needs: what it must see.
        data: key of its examples.
        labels: what records call each of the values that it gives per example; empty: one score, called ``name``.
        called: as messages call it; empty: ``name``.
    """

    name: str
    evaluator: Evaluator
    needs: Needs
    data: str
    labels: Mapping[str, str] = field(default_factory=dict)
    called: str = ""

    @property
    def title(self) -> str:
        """As messages call it."""
        return self.called or self.name

    def told(self, label: str) -> str:
        """One of its values as messages call it."""
        if label == self.name:
            return "its score"
        return next((name for name, known in self.labels.items() if known == label), label)

    def labelled(self, scored: Scored) -> Mapping[str, Score]:
        """The scores of an example by what records call them.

        Raises:
            PluginError: where they aren't those that the spec declares.
        """
        if isinstance(scored, Score):
            if not self.labels or list(self.labels.values()) == [self.name]:
                return {self.name: scored}
            raise PluginError(
                f"Evaluator {self.title!r} gave one score; its spec declares {', '.join(self.labels)}, so it gives a "
                "mapping with a score for each."
            )
        if set(scored) != set(self.labels):
            raise PluginError(
                f"Evaluator {self.title!r} gave values {', '.join(sorted(scored)) or 'of no name'}; its spec declares "
                f"{', '.join(sorted(self.labels)) or 'none'} per example."
            )
        return {self.labels[name]: score for name, score in scored.items()}


@dataclass(frozen=True)
class SampleRequest:
    """Completions that a reader wants to see: of the first ``n`` examples of a data set."""

    data: str
    n: int
    max_new_tokens: int


@dataclass(frozen=True)
class ConditionScores:
    """What one condition gave.

    Args:
        scores: ``{(label, data): one score per example}``.
        completions: ``{data: completions of its first texts}``.
        readings: ``{data: what monitors read along the prompts and completions that a reader sees}``.
        activity: how many tokens were edited by what doesn't act everywhere.
        asking: ``{(job name, data): what a reader must know of its questions, as sentences}``.
        unanswered: the job names and data where a question that was asked stayed without an answer: asked again, it
            may get one.
        idle: whether its interventions do nothing, so that these are the baseline's own outputs.
    """

    scores: Mapping[tuple[str, str], tuple[Score, ...]]
    completions: Mapping[str, tuple[str, ...]]
    readings: Mapping[str, Sequence[Mapping[str, Readings]]] = field(default_factory=dict)
    activity: Activity = field(default_factory=dict)
    asking: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    unanswered: Set[tuple[str, str]] = frozenset()
    idle: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        """All that a reader must know, as sentences."""
        asked = [f"{name} on {data}: {note}" for (name, data), notes in self.asking.items() for note in notes]
        return (*asked, *([IDLE] if self.idle else []))


@dataclass(eq=False)
class Member:
    """One of the conditions that are run together, with what it gave so far.

    Args:
        under: its interventions, its system prompt, and how it is lowered.
        name: what its samples are drawn by.
        ids: greedy completions by data set.
        sampled: sampled completions, by data set and kind, prompt by prompt.
        scores: ``{(label, data): {place of the text: score}}``.
        completions: ``{data: completions}``.
        asked: how many questions an evaluator has asked on a data set, and what they took of its budget of tokens.
        notes: by job and data set, on its questions.
        unanswered: jobs and data sets where a question that was asked stayed without an answer.
    """

    under: Steered
    name: str = ""
    ids: dict[str, Completions] = field(default_factory=dict)
    sampled: dict[tuple[str, Sampling], list[list[str]]] = field(default_factory=dict)
    scores: dict[tuple[str, str], dict[int, Score]] = field(default_factory=dict)
    completions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    readings: dict[str, Sequence[Mapping[str, Readings]]] = field(default_factory=dict)
    activity: dict[tuple[str, str], dict[tuple[str, Cause], int]] = field(default_factory=dict)
    asked: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    notes: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    unanswered: set[tuple[str, str]] = field(default_factory=set)

    @property
    def acts(self) -> bool:
        """Whether it is another condition than the baseline."""
        return bool(self.under.placements) or self.under.system_prompt is not None

    @property
    def system_prompt(self) -> str | None:
        """Its own, which members that are run together have in common."""
        return self.under.system_prompt

    def take(self, job: Job, places: Sequence[int], outputs: Outputs) -> None:
        """Let a job score outputs of the texts at these places."""
        scores = job.evaluator.score(outputs)
        if len(scores) != len(places):
            raise PluginError(
                f"Evaluator {job.title!r} gave {counted(len(scores), 'score')} for {counted(len(places), 'example')} "
                f"of {job.data}; "
                "it must give one for each."
            )
        for place, scored in zip(places, scores, strict=True):
            for label, score in job.labelled(scored).items():
                self.scores.setdefault((label, job.data), {})[place] = _as_numbers(job, label, score)

    def finished(self) -> ConditionScores:
        """All that it gave, in the order of the texts."""
        scores = {key: tuple(found[place] for place in sorted(found)) for key, found in self.scores.items()}
        asking = {key: tuple(dict.fromkeys(notes)) for key, notes in self.notes.items()}
        return ConditionScores(
            scores, self.completions, self.readings, self.activity, asking, frozenset(self.unanswered)
        )


def _as_numbers(job: Job, label: str, score: Score) -> Score:
    """A score of plain numbers, which can be kept: numpy's and torch's own are turned into Python's."""
    value, weight = (_number(score.value), _number(score.weight)) if isinstance(score, Score) else (None, None)
    if value is None or weight is None:
        raise PluginError(
            f"Evaluator {job.title!r} gave {job.told(label)} on {job.data} as {score!r}. A score is a "
            "steerkit.api.Score of numbers; NaN where it can't be computed."
        )
    # Where something is kept as JSON, null stands for a value that isn't finite; a weight has no such meaning.
    if not (math.isfinite(weight) and weight >= 0):
        raise PluginError(
            f"Evaluator {job.title!r} gave {job.told(label)} on {job.data} the weight {weight}. A weight is finite and "
            "at least 0."
        )
    return Score(value, weight)


def _number(value: Any) -> float | None:
    if isinstance(value, (str, bytes)):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def require_possible(job: Job) -> None:
    """Refuse needs that no pass meets, rather than leave them out without a word."""
    fault = impossible(job.needs)
    if fault is not None:
        raise PluginError(f"Evaluator {job.title!r} {fault}.")
