"""What a plan is made of: every name of a recipe resolved. Plain frozen values; no weights, no torch.

Conditions, monitors, the model and what the report shows are in ``planned``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from steerkit.api.hookspecs import (
    NEGATIVE,
    POSITIVE,
    EstimatorSpec,
    EvaluatorSpec,
    FormatSpec,
    Needs,
    NoOptions,
    Options,
    Value,
)
from steerkit.api.tokens import FoundTokens
from steerkit.plan.planned.conditions import PlannedCondition, PlannedIntervention
from steerkit.recipe.completions import UNSTEERED
from steerkit.recipe.data import DataRef
from steerkit.types import Positions, Site, SitePattern

if TYPE_CHECKING:
    from steerkit.selection import Rule


@dataclass(frozen=True)
class PlannedDirection:
    """A direction to estimate, or one to read from ``file``; then estimator and classes are None.

    Args:
        name: as the recipe calls it.
        estimator: the plugin.
        options: of the estimator, or of the file's format.
        positive: prompts of the class that the direction points to.
        negative: prompts of the reference class.
        labelled: in their place, prompts by label, for an estimator of labelled classes.
        site: where it is read, one site or a pattern of several; None where the estimator chooses; of a file, what it
            lacks and the recipe says.
        positions: at which tokens; of a file likewise.
        file: a saved direction.
        format: name of the format of ``file``; None for the one that knows it.
        reader: that format, which a run needs no catalog for.
        further: full names of the directions that the estimator gives beside it.
    """

    name: str
    estimator: EstimatorSpec | None = None
    options: Options = field(default_factory=NoOptions)
    positive: DataRef | None = None
    negative: DataRef | None = None
    labelled: tuple[tuple[str, DataRef], ...] = ()
    site: Site | SitePattern | None = None
    positions: Positions | None = None
    file: Path | None = None
    format: str | None = None
    reader: FormatSpec | None = None
    further: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[tuple[str, DataRef], ...]:
        """Prompts by class; none of a file."""
        if self.positive is None or self.negative is None:
            return self.labelled
        return ((POSITIVE, self.positive), (NEGATIVE, self.negative))


@dataclass(frozen=True)
class PlannedSeparation:
    """How well a direction's classes are told apart at every layer.

    Args:
        direction: the direction, whose estimator is fitted at each layer to the classes that it was estimated from.
        seen: the classes that are told apart.
        held_out: whether those are other prompts than it was estimated from.
    """

    direction: PlannedDirection
    seen: tuple[DataRef, DataRef]
    held_out: bool


@dataclass(frozen=True)
class PlannedTokens:
    """First tokens of refusals that a run finds. See ``steerkit.api.tokens.FoundTokens``.

    Args:
        wanted: as options ask for them.
        found_in: prompts that the model declines.
        against: prompts that it answers, or None.
        spec: the evaluator that tells refusals.
        options: its options.
        needs: what it must see: completions.
    """

    wanted: FoundTokens
    found_in: DataRef
    against: DataRef | None
    spec: EvaluatorSpec
    options: Options
    needs: Needs


CHOSEN: Final = "chosen"
"""What a recipe writes for a coefficient that a search chooses."""
CANDIDATE: Final = "candidate"
"""What the direction of an intervention is called that goes along whatever candidate is scored."""


@dataclass(frozen=True)
class PlannedFilter:
    """Which examples of a data set are kept, by a score of the unsteered model.

    Args:
        data: the parts that are filtered.
        spec: the evaluator.
        options: its options.
        needs: what it must see.
        at_least: the least score that is kept, or None.
        at_most: the greatest, or None.
    """

    data: tuple[DataRef, ...]
    spec: EvaluatorSpec
    options: Options
    needs: Needs
    at_least: float | None = None
    at_most: float | None = None

    def keeps(self, score: float) -> bool:
        """Whether an example of that score is kept. One without a score is not."""
        low = self.at_least is None or score >= self.at_least
        high = self.at_most is None or score <= self.at_most
        return low and high and score == score

    def __str__(self) -> str:
        sides = (("≥", self.at_least), ("≤", self.at_most))
        return f"{self.spec.name} " + " and ".join(f"{sign} {value:g}" for sign, value in sides if value is not None)


@dataclass(frozen=True)
class PlannedCompletions:
    """A data set of what the model says to another one's prompts.

    Args:
        name: of the data set.
        of: the parts whose prompts are completed; the data set has parts of the same names.
        condition: under which they are; None for the unsteered model.
        new_tokens: length of a completion in tokens, at most.
        prefix: how the answers are made to begin; None: as those to the prompts are.
    """

    name: str
    of: tuple[DataRef, ...]
    condition: PlannedCondition | None
    new_tokens: int
    prefix: str | None = None

    @property
    def under(self) -> str:
        """The condition's name."""
        return UNSTEERED if self.condition is None else self.condition.name


@dataclass(frozen=True)
class PlannedScore:
    """One score of a search's candidates.

    Args:
        name: as the rule speaks of it.
        spec: the evaluator.
        options: its options.
        needs: what it must see.
        data: the prompts.
        under: interventions along ``CANDIDATE``.
        references: what the evaluator calls other data that it looks at, with that data.
    """

    name: str
    spec: EvaluatorSpec
    options: Options
    needs: Needs
    data: DataRef
    under: tuple[PlannedIntervention, ...]
    references: tuple[tuple[str, DataRef], ...] = ()

    @property
    def varies(self) -> bool:
        """Whether it depends on the coefficient of a candidate, where candidates have one."""
        return any(one.spec.additive for one in self.under)


@dataclass(frozen=True)
class PlannedSearch:
    """A direction that is chosen among candidates.

    Args:
        name: of the search, and of the direction.
        over: directions whose sites and positions are the candidates.
        scores: what each is scored by.
        rule: which one is taken.
        exhaustive: whether candidates that a bound removed are scored on.
        coefficients: of what is added, each of them a candidate; empty where candidates have none of their own.
    """

    name: str
    over: tuple[str, ...]
    scores: tuple[PlannedScore, ...]
    rule: Rule
    exhaustive: bool = False
    coefficients: tuple[float, ...] = ()


@dataclass(frozen=True)
class PlannedEvaluation:
    """An evaluator with its options, what it must see, the data that it is run on, and other data that it looks at.

    Args:
        name: as results call it.
        spec: the plugin.
        options: of the plugin.
        needs: what it must see.
        data: what it is run on.
        references: other data that it looks at, by the names that its options give them.
        uncontrolled: of its data, where random controls aren't measured by it.
    """

    name: str
    spec: EvaluatorSpec
    options: Options
    needs: Needs
    data: tuple[DataRef, ...]
    references: tuple[tuple[str, DataRef], ...] = ()
    uncontrolled: tuple[DataRef, ...] = ()

    @property
    def derived(self) -> tuple[str, ...]:
        """What results call the values that are derived from this one."""
        renamed = self.name != self.spec.name
        return tuple(f"{self.name}.{label}" if renamed else label for label in self.spec.derived)

    @property
    def values(self) -> Mapping[str, Value]:
        """What results call its values, where they are several; empty where it gives one score per example."""
        return {self.spec.label(name, self.name): value for name, value in self.spec.values.items()}

    @property
    def labels(self) -> Mapping[str, str]:
        """Of each value per example, by the name that the evaluator gives it, what results call it."""
        per_example = (name for name, value in self.spec.values.items() if value.aggregate != "whole")
        return {name: self.spec.label(name, self.name) for name in per_example}

    @property
    def added(self) -> tuple[str, ...]:
        """The names beside its own that it adds to results."""
        return tuple(dict.fromkeys((*self.derived, *(label for label in self.values if label != self.name))))


@dataclass(frozen=True)
class Cost:
    """What a run costs, at most: a completion may end early.

    Args:
        forward_passes: batches that go through the model; while decoding each new token of a batch is one. What the
            prompts of a batch have in common may be read apart before it, which counts as part of it, and whether a
            model can do so is tried once, which isn't counted.
        prompt_tokens: tokens that are read, without padding.
        generated_tokens: tokens that are written.
        estimated: whether token counts are estimates.
        basis: how tokens were counted, in words.
        parts: ``(what for, forward passes)``, which add up to ``forward_passes``.
        batches: the fullest batches, of each kind: rows, tokens of a row with those that are generated, and whether
            logits are given at every token.
    """

    forward_passes: int
    prompt_tokens: int
    generated_tokens: int
    estimated: bool
    basis: str
    parts: tuple[tuple[str, int], ...] = ()
    batches: tuple[tuple[int, int, bool], ...] = ()


def as_text(value: object) -> str | None:
    """A value as recipes write it; None where there is none."""
    return None if value is None else str(value)
