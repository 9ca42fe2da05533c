"""Scores of candidates, in the order of their cost: one that a bound has removed is not scored any further."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from steerkit.api.direction import Direction
from steerkit.api.evaluator import Evaluator, Outputs, Score
from steerkit.api.hookspecs import Needs
from steerkit.api.intervention import Placement
from steerkit.engine.measuring.evaluate import Evaluation, Job, Steered
from steerkit.engine.measuring.references import reference_name
from steerkit.engine.runtime.runtime import Runtime
from steerkit.engine.searching.alike import AlikePrompts, first_layer
from steerkit.errors import DataError, PluginError
from steerkit.progress import SILENT, Observer
from steerkit.selection import LAYER, NAN, Bound, Rule
from steerkit.types import Example, Positions, Site


@dataclass(frozen=True, eq=False)
class Choice:
    """What a search may choose: a direction at one site, read at one position.

    Args:
        position: the token that it was read at, counted from the end of the prompt.
        site: where it was read.
        direction: with vectors at that site.
        variant: what else tells it from others, such as its estimator; empty where nothing does.
        coefficient: what multiplies the direction where it is added; None where interventions have their own.
    """

    position: int
    site: Site
    direction: Direction
    variant: str = ""
    coefficient: float | None = None


@dataclass(frozen=True, eq=False)
class Probe:
    """One score of a candidate: an evaluator on prompts, under interventions along the candidate's direction.

    Args:
        name: of the score.
        evaluator: what scores.
        needs: what it must see.
        data: name of the prompts.
        examples: the prompts.
        place: the interventions along a direction.
        limits: the least and the greatest value that an example's score can have.
        references: other examples that the evaluator looks at, by the names that ``needs`` has for them.
        with_coefficient: the interventions along a direction with a candidate's coefficient; None where the score
            doesn't depend on it, and is then computed once for all candidates of one direction.
    """

    name: str
    evaluator: Evaluator
    needs: Needs
    data: str
    examples: tuple[Example, ...]
    place: Callable[[Direction], tuple[Placement, ...]]
    limits: tuple[float, float] = (-math.inf, math.inf)
    references: Mapping[str, tuple[Example, ...]] = field(default_factory=dict)
    with_coefficient: Callable[[Direction, float], tuple[Placement, ...]] | None = None

    def placed(self, choice: Choice) -> tuple[Placement, ...]:
        """The interventions along a candidate."""
        if self.with_coefficient is None or choice.coefficient is None:
            return self.place(choice.direction)
        return self.with_coefficient(choice.direction, choice.coefficient)

    def same_for(self, choice: Choice) -> tuple[int, float | None]:
        """Candidates for which this is equal have one score."""
        return id(choice.direction), None if self.with_coefficient is None else choice.coefficient


@dataclass(frozen=True)
class Scored:
    """What a candidate scored.

    Args:
        scores: mean by name; those that were asked for and not decided before.
        by_example: each score's values, in the order of the examples.
        failed: name of the bound that removed it, in the order in which they were asked; None where none did.
        broken_off: of a score that was clear to fail a bound, the least or the greatest that its mean could still be.
    """

    scores: Mapping[str, float]
    by_example: Mapping[str, tuple[float, ...]]
    failed: str | None = None
    broken_off: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """One filter of a search.

    Args:
        name: of the score.
        asked: how many candidates it was computed for.
        alive: how many were left behind it.
        seconds: what it took.
    """

    name: str
    asked: int
    alive: int
    seconds: float


@dataclass(frozen=True)
class Searched:
    """Candidates with what they scored, the stages in the order in which they were gone through, and which shortcuts
    the model didn't take; ``baseline`` holds each score of next-token logits or activations without any intervention.
    """

    scored: tuple[Scored, ...]
    stages: tuple[Stage, ...]
    notes: tuple[str, ...] = ()
    baseline: Mapping[str, float] = field(default_factory=dict)


class CandidateSearch:
    """Scores candidates by probes.

    Args:
        live: the model.
        probes: the scores, of which the rule speaks.
        rule: what is minimised, subject to what.
        exhaustive: score every candidate by every probe, whatever removes it.
        observer: told of each candidate.
    """

    def __init__(
        self,
        live: Runtime,
        probes: Sequence[Probe],
        rule: Rule,
        *,
        exhaustive: bool = False,
        observer: Observer = SILENT,
    ) -> None:
        self.live, self.rule, self.exhaustive, self.observer = live, rule, exhaustive, observer
        self.probes = {probe.name: probe for probe in probes}
        missing = [name for name in rule.scores if name not in self.probes]
        if missing:
            raise DataError(f"The search speaks of {', '.join(missing)}, and has no such score.")
        self._scorers: dict[str, _Scorer] = {}
        self._alike: dict[str, AlikePrompts] = {}
        self._known: dict[tuple[str, tuple[int, float | None]], _Known] = {}

    def run(self, choices: Sequence[Choice]) -> Searched:
        """Score candidates.

        Those of a layer that can't win are scored only by an exhaustive search. Then come the bounds, the cheapest
        score first, and the objective for whoever is left.
        """
        held = [_Candidate(choice) for choice in choices]
        stages = []
        if self.rule.layers is not None:
            outside = self.rule.layers.first_outside(self.live.layout.n_layers)
            for one in held:
                one.failed = LAYER if one.choice.site.layer >= outside else None
        for name in self._order(choices):
            bounds = [bound for bound in self.rule.bounds if bound.score == name]
            began = time.perf_counter()
            asked = [one for one in held if self.exhaustive or one.failed is None]
            self.observer.step(f"{name} of candidates")
            for done, one in enumerate(asked):
                self._score(name, one, bounds)
                self.observer.progress(done + 1, len(asked))
            alive = sum(one.failed is None for one in held)
            stages.append(Stage(name, len(asked), alive, time.perf_counter() - began))
        notes = dict.fromkeys(note for alike in self._alike.values() for note in alike.shortcuts.refused)
        unsteered = {name: one.unsteered_mean() for name, one in self._scorers.items()}
        baseline = {name: value for name, value in unsteered.items() if value is not None}
        return Searched(tuple(one.scored() for one in held), tuple(stages), tuple(notes), baseline)

    def _order(self, choices: Sequence[Choice]) -> list[str]:
        """Scores in the order in which they are asked: bounds by what their passes cost, the objective last."""
        bounded = [name for name in self.rule.scores if name not in self.rule.aims]
        return [*sorted(bounded, key=lambda name: self._cost(name, choices)), *self.rule.aims]

    def _cost(self, name: str, choices: Sequence[Choice]) -> float:
        probe, layers = self.probes[name], self.live.layout.n_layers
        if not is_quick(probe, probe.placed(choices[0])):
            return math.inf
        each = {probe.same_for(one): one for one in choices}.values()
        run = [layers - first_layer(probe.placed(one), self.live) for one in each]
        return len(probe.examples) * sum(run) / len(choices)

    def _score(self, name: str, one: _Candidate, bounds: Sequence[Bound]) -> None:
        """Score a candidate, as far as it takes to know whether it stays within bounds, and note which one it fails."""
        scorer = self._scorer(name, one.choice)
        key = (name, scorer.probe.same_for(one.choice))
        if key not in self._known:
            self._known[key] = self._found(scorer, one.choice, bounds)
        known = self._known[key]
        one.found[name] = known.scores
        if known.broken_off is not None:
            one.broken_off[name] = known.broken_off
        if one.failed is None:
            one.failed = known.failed

    def _found(self, scorer: _Scorer, choice: Choice, bounds: Sequence[Bound]) -> _Known:
        """A score of a candidate, as far as it takes to know whether it stays within bounds."""
        found: dict[int, Score] = {}
        total = len(scorer.probe.examples)
        for more in scorer.scores(choice):
            found |= more
            if not self.exhaustive and len(found) < total:
                reach = _reach(list(found.values()), total, scorer.probe.limits)
                failed = next((bound for bound in bounds if _is_lost(bound, reach)), None)
                if failed is not None:
                    return _Known(found, failed.name, reach[0] if failed.at_most is not None else reach[1])
        mean = _mean(list(found.values()))
        if math.isnan(mean):
            return _Known(found, NAN)
        return _Known(found, next((bound.name for bound in bounds if not bound.holds(mean)), None))

    def _scorer(self, name: str, choice: Choice) -> _Scorer:
        if name not in self._scorers:
            probe = self.probes[name]
            quick = is_quick(probe, probe.placed(choice))
            self._scorers[name] = _Quick(self._read(probe), probe) if quick else _Whole(self.live, probe)
        return self._scorers[name]

    def _read(self, probe: Probe) -> AlikePrompts:
        if probe.data not in self._alike:
            # What the model was found to take with a common beginning holds for other prompts of its template.
            tried = next((one.shortcuts for one in self._alike.values() if one.beginning is not None), None)
            self._alike[probe.data] = AlikePrompts(self.live, self.live.rendered(probe.examples), tried)
        return self._alike[probe.data]


@dataclass(frozen=True, eq=False)
class _Known:
    """A score of a candidate: by place of the example, the bound that it fails, and how far its mean could still be
    from that where it was not computed to the end."""

    scores: dict[int, Score]
    failed: str | None = None
    broken_off: float | None = None


@dataclass(eq=False)
class _Candidate:
    """A candidate while it is scored: its scores by name and place of the example."""

    choice: Choice
    found: dict[str, dict[int, Score]] = field(default_factory=dict)
    failed: str | None = None
    broken_off: dict[str, float] = field(default_factory=dict)

    def scored(self) -> Scored:
        whole = {name: found for name, found in self.found.items() if name not in self.broken_off}
        by_example = {name: tuple(found[place].value for place in sorted(found)) for name, found in whole.items()}
        scores = {name: _mean(list(found.values())) for name, found in whole.items()}
        return Scored(scores, by_example, self.failed, self.broken_off)


def is_quick(probe: Probe, placements: Sequence[Placement]) -> bool:
    """Whether a score is one of next-token logits alone, under edits that act at every token alike."""
    needs = probe.needs
    alike = all(
        one.positions == Positions("all") and one.gate is None and one.schedule.is_constant for one in placements
    )
    return alike and needs in (Needs(next_token_logits=True), Needs(next_token_logits=True, baseline=True))


class _Quick:
    """Scores of next-token logits, prompts at a time, with what is common to candidates computed once."""

    def __init__(self, alike: AlikePrompts, probe: Probe) -> None:
        self.alike, self.probe = alike, probe
        self.unsteered = alike.unsteered  # here: once a candidate's passes go on, the model is steered

    def scores(self, choice: Choice) -> Iterator[dict[int, Score]]:
        """Scores by place of the example, some of them at a time."""
        for order, logits in self.alike.logits(self.probe.placed(choice)):
            yield dict(zip(order, self._scored(order, logits.cpu()), strict=True))

    def unsteered_mean(self) -> float:
        """The score without any intervention."""
        return _mean(self._scored(range(len(self.probe.examples)), self.unsteered))

    def _scored(self, places: Sequence[int], logits: Tensor) -> list[Score]:
        examples = [self.probe.examples[place] for place in places]
        outputs = Outputs(_texts(examples), logits, examples=examples)
        if self.probe.needs.baseline:
            baseline = Outputs(_texts(examples), self.unsteered[list(places)], examples=examples)
            outputs = replace(outputs, baseline=baseline)
        return _single(self.probe, self.probe.evaluator.score(outputs))


class _Whole:
    """Scores of anything else: each candidate is a condition like any other."""

    def __init__(self, live: Runtime, probe: Probe) -> None:
        self.probe = probe
        job = Job(probe.name, probe.evaluator, probe.needs, probe.data)
        others = {reference_name(name): list(rows) for name, rows in probe.references.items()}
        self.evaluation = Evaluation(live, [job], {probe.data: list(probe.examples), **others})

    def scores(self, choice: Choice) -> Iterator[dict[int, Score]]:
        """Scores by place of the example, all at once."""
        yield dict(enumerate(self._under(self.probe.placed(choice))))

    def unsteered_mean(self) -> float | None:
        """The score without any intervention; None where completions would have to be written for it."""
        needs = self.probe.needs
        return _mean(self._under(())) if needs.activations and not needs.max_new_tokens else None

    def _under(self, placements: tuple[Placement, ...]) -> Sequence[Score]:
        found = self.evaluation.run(Steered(placements), samples=False)
        return found.scores[self.probe.name, self.probe.data]


_Scorer = _Quick | _Whole


def _texts(examples: Sequence[Example]) -> list[str]:
    return [example.text for example in examples]


def _single(probe: Probe, scored: Sequence[object]) -> list[Score]:
    if not all(isinstance(score, Score) for score in scored):
        raise PluginError(f"Score {probe.name!r} of a search: its evaluator gives several values; a search takes one.")
    return [score for score in scored if isinstance(score, Score)]


def _mean(scores: Sequence[Score]) -> float:
    """The mean weighted by weight; NaN where a score that counts is, or none counts."""
    weight = math.fsum(score.weight for score in scores)
    if weight == 0:
        return math.nan
    return math.fsum(score.value * score.weight for score in scores if score.weight) / weight


def _reach(scores: Sequence[Score], total: int, limits: tuple[float, float]) -> tuple[float, float]:
    """The least and the greatest mean that there can still be.

    Raises:
        PluginError: for weights other than 1 where an evaluator says limits: what is left could count for more.
    """
    if limits == (-math.inf, math.inf):
        return limits
    if any(score.weight != 1 for score in scores):
        raise PluginError("An evaluator that says the limits of its scores gave one of another weight than 1.")
    known, left = math.fsum(score.value for score in scores), total - len(scores)
    return (known + left * limits[0]) / total, (known + left * limits[1]) / total


def _is_lost(bound: Bound, reach: tuple[float, float]) -> bool:
    """Whether a bound fails wherever in its reach the mean comes to lie. Float noise of the sum is no reason."""
    least, greatest = reach
    over = bound.at_most is not None and least > bound.at_most + 1e-9
    return over or (bound.at_least is not None and greatest < bound.at_least - 1e-9)
