"""A constrained choice among scored candidates: the best objective among those that stay within all bounds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, TypeAlias

from steerkit.errors import SelectionError, counted

NAN: Final = "nan"
LAYER: Final = "layer"

Removed: TypeAlias = Mapping[str, int]
"""How many candidates each constraint removed, by name, in the order in which they are asked."""


@dataclass(frozen=True)
class Candidate:
    """One choice that a search may make, with what it scored.

    Args:
        position: the token that it was read at, as in −1 for the last of the prompt.
        layer: from 0.
        scores: by name. NaN where one couldn't be computed; an infinite one is no score either.
        errors: standard error of the difference of a score to the winner's, where that is known: paired in a run, and
            what the table says of each score otherwise.
        variant: what else tells it from others of its position and layer; empty where nothing has to.
        removed_by: the constraint that removed it before all of it was scored; None where that is for the rule to say.
        coefficient: what multiplies its direction where it is added; None where candidates don't differ in that.
        order: the place of its coefficient among those that there are, by which exact ties of one position and layer
            are broken.
    """

    position: int
    layer: int
    scores: Mapping[str, float]
    errors: Mapping[str, float] = field(default_factory=dict)
    variant: str = ""
    removed_by: str | None = None
    coefficient: float | None = None
    order: int = 0

    @property
    def place(self) -> tuple[int, int, str]:
        """Position, layer, and what else tells it from others: its variant, and its coefficient where it has one."""
        times = () if self.coefficient is None else (f"× {self.coefficient!r}",)
        return self.position, self.layer, " ".join((*filter(None, (self.variant,)), *times))

    @property
    def rank(self) -> tuple[int, int, int, str]:
        """The order in which exact ties are broken: position, layer, order of the coefficient, variant."""
        return self.position, self.layer, self.order, self.variant


@dataclass(frozen=True)
class Bound:
    """A score that has to stay on one side of a number, or on it.

    Args:
        name: as ``removed_by`` counts it.
        score: the score.
        at_least: lower bound, or None.
        at_most: upper bound, or None.
        strict: whether a score that equals the bound is outside.
    """

    name: str
    score: str
    at_least: float | None = None
    at_most: float | None = None
    strict: bool = False

    def holds(self, value: float) -> bool:
        """Whether a score is within. NaN never is."""
        lower = self.at_least is None or (value > self.at_least if self.strict else value >= self.at_least)
        upper = self.at_most is None or (value < self.at_most if self.strict else value <= self.at_most)
        return lower and upper and not math.isnan(value)

    def __str__(self) -> str:
        signs = (">", "<") if self.strict else ("≥", "≤")
        sides = ((signs[0], self.at_least), (signs[1], self.at_most))
        return f"{self.score} " + " and ".join(f"{sign} {limit:g}" for sign, limit in sides if limit is not None)


@dataclass(frozen=True)
class LayerBound:
    """Layers below a share of the depth: ``layer < int(share · n_layers)``, as the reference of ``arditi2024`` counts.

    Args:
        share: of the number of layers, 0 to 1.
    """

    share: float

    def first_outside(self, n_layers: int) -> int:
        """The lowest layer that is outside."""
        return int(n_layers * self.share)

    def __str__(self) -> str:
        return f"layer < {self.share:g} · layers"


@dataclass(frozen=True)
class Rule:
    """What a search minimises, subject to what.

    Args:
        objective: name of the score.
        bounds: in the order in which they are asked: a candidate counts for the first one that it fails.
        layers: which layers may win, asked before the bounds; None for all.
        maximise: whether the objective is to be large.
        plus: further scores, whose sum with ``objective`` is what the rule aims at.
    """

    objective: str
    bounds: tuple[Bound, ...] = ()
    layers: LayerBound | None = None
    maximise: bool = False
    plus: tuple[str, ...] = ()

    @property
    def aims(self) -> tuple[str, ...]:
        """The scores whose sum it aims at."""
        return (self.objective, *self.plus)

    @property
    def aim(self) -> str:
        """What it aims at, in words: the name of a score, or of several with a plus between them."""
        return " + ".join(self.aims)

    @property
    def scores(self) -> tuple[str, ...]:
        """The scores that a candidate needs, the objective first."""
        return tuple(dict.fromkeys((*self.aims, *(bound.score for bound in self.bounds))))

    def failure(self, candidate: Candidate, n_layers: int) -> str | None:
        """The first constraint that a candidate fails, in the order NaN, layer, bounds; None where it passes all.

        An infinite score, and an infinite sum of what is aimed at, count as NaN does: neither can be compared. What
        removed a candidate before it was scored goes before a score that is missing: the rest of it isn't known.
        """
        scores = [candidate.scores[name] for name in self.scores]
        if any(map(math.isinf, scores)):
            return NAN
        if candidate.removed_by is not None and any(map(math.isnan, scores)):
            return candidate.removed_by
        if not all(map(math.isfinite, (*scores, self.aimed_at(candidate)))):
            return NAN
        if self.layers is not None and candidate.layer >= self.layers.first_outside(n_layers):
            return LAYER
        return next((bound.name for bound in self.bounds if not bound.holds(candidate.scores[bound.score])), None)

    def cost(self, candidate: Candidate) -> float:
        """What is minimised."""
        value = self.aimed_at(candidate)
        return -value if self.maximise else value

    def aimed_at(self, candidate: Candidate) -> float:
        """The objective of a candidate, or the sum where there are several: NaN where infinite ones have two signs."""
        values = [candidate.scores[name] for name in self.aims]
        try:
            return math.fsum(values)
        except (ValueError, OverflowError):  # for infinities of two signs, and beyond the range of numbers
            return sum(values)

    def error(self, candidate: Candidate) -> float | None:
        """The standard error of what is aimed at, that of a sum as of independent scores; None where it isn't known."""
        errors = [candidate.errors.get(name, math.nan) for name in self.aims]
        return None if any(map(math.isnan, errors)) else math.hypot(*errors)

    def says(self) -> Mapping[str, str]:
        """What each constraint asks for in words, by the name that ``removed_by`` has for it."""
        layers = {} if self.layers is None else {LAYER: str(self.layers)}
        return {NAN: "every score a finite number", **layers, **{bound.name: str(bound) for bound in self.bounds}}


@dataclass(frozen=True)
class Selection:
    """What a rule chose.

    Args:
        winner: the candidate; None where none is feasible.
        near_ties: other feasible candidates that the data can't tell from the winner, the nearest first.
        feasible: how many candidates stay within all bounds.
        removed_by: how many the others failed first, by constraint.
        candidates: how many there were.
    """

    winner: Candidate | None
    near_ties: tuple[Candidate, ...]
    feasible: int
    removed_by: Removed
    candidates: int

    def why_none(self, rule: Rule) -> str:
        """Why no candidate is feasible, in one sentence."""
        says = rule.says()
        parts = [f"{count} by {name}, which asks for {says[name]}" for name, count in self.removed_by.items() if count]
        return f"None of {counted(self.candidates, 'candidate')} is feasible. Removed were {'; '.join(parts)}."


def select(candidates: Iterable[Candidate], rule: Rule, n_layers: int, *, near_tie: float = 0.1) -> Selection:
    """Choose: among the candidates that fail no constraint, the one with the best objective.

    Exact ties go to the lower position, then to the lower layer, then to the earlier coefficient, in whatever order the
    candidates come.

    Args:
        candidates: with every score that the rule names.
        rule: objective and bounds.
        n_layers: of the model, for a bound on layers.
        near_tie: a candidate this close to the winner is a near-tie, where neither has a standard error of the
            objective; in the objective's units.

    Raises:
        SelectionError: no candidates, two of one place, a layer that the model lacks, or a score that is missing.
    """
    found = _in_order(candidates, rule, n_layers)
    failures = [rule.failure(candidate, n_layers) for candidate in found]
    removed = {name: failures.count(name) for name in rule.says()}
    alive = [candidate for candidate, failure in zip(found, failures, strict=True) if failure is None]
    if not alive:
        return Selection(None, (), 0, removed, len(found))
    winner = min(alive, key=rule.cost)  # the first of equal ones, which are in order
    others = sorted((one for one in alive if one is not winner), key=rule.cost)
    ties = [one for one in others if rule.cost(one) - rule.cost(winner) <= _within(one, winner, rule, near_tie)]
    return Selection(winner, tuple(ties), len(alive), removed, len(found))


def _in_order(candidates: Iterable[Candidate], rule: Rule, n_layers: int) -> Sequence[Candidate]:
    found = sorted(candidates, key=lambda one: one.rank)
    if not found:
        raise SelectionError("There are no candidates to choose from.")
    for before, after in pairwise(found):
        if before.place == after.place:
            times = "" if after.coefficient is None else f", coefficient {after.coefficient:g}"
            where = f"Position {after.position}, layer {after.layer}{times}"
            raise SelectionError(f"{where} is there twice. Keep one of them.")
    for one in found:
        where = f"position {one.position}, layer {one.layer}"
        if not 0 <= one.layer < n_layers:
            raise SelectionError(
                f"A model of {counted(n_layers, 'layer')} has layers 0 to {n_layers - 1}; there is {where}."
            )
        missing = [name for name in rule.scores if name not in one.scores]
        if missing:
            raise SelectionError(f"The candidate at {where} has no {' and no '.join(missing)}.")
    return found


def _within(one: Candidate, winner: Candidate, rule: Rule, otherwise: float) -> float:
    """How near a candidate has to be to the winner to be a near-tie: its own standard error, else the winner's."""
    for candidate in (one, winner):
        error = rule.error(candidate)
        if error is not None:
            return error
    return otherwise
