"""Scores of candidates, in the order of their cost: one that a bound has removed is not scored any further."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from steerkit.api.evaluator import Score
from steerkit.engine.runtime.runtime import Runtime
from steerkit.engine.searching.alike import AlikePrompts, first_layer
from steerkit.engine.searching.scorers import (
    Choice,
    Probe,
    Quick,
    Scorer,
    Together,
    Whole,
    acts_as,
    is_quick,
    mean_of,
)
from steerkit.errors import DataError, PluginError
from steerkit.intervals import total as sum_of
from steerkit.progress import SILENT, Observer
from steerkit.selection import LAYER, NAN, Bound, Rule


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
        self._scorers: dict[str, Scorer] = {}
        self._alike: dict[str, AlikePrompts] = {}
        self._together: dict[tuple[str, ...], Together] = {}
        self._sharing: dict[str, tuple[str, ...]] = {}
        self._known: dict[tuple[str, tuple[int, float | None]], _Known] = {}

    def run(self, choices: Sequence[Choice]) -> Searched:
        """Score the candidates of a search.

        Those of a layer that can't win are scored only by an exhaustive search. Then come the bounds, the cheapest
        score first, and the objective for whoever is left.
        """
        held = [_Candidate(choice) for choice in choices]
        self._known = {}  # directions are told apart by identity, which holds while their choices do
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
                self._look_ahead(name, asked[done:])
                self._score(name, one, bounds)
                self.observer.progress(done + 1, len(asked))
            alive = sum(one.failed is None for one in held)
            stages.append(Stage(name, len(asked), alive, time.perf_counter() - began))
        notes = dict.fromkeys(note for alike in self._read_alike() for note in alike.refused)
        scorers = dict(self._scorers)
        scorers |= {name: one for together in self._together.values() for name, one in together.quick.items()}
        unsteered = {name: scorers[name].unsteered_mean() for name in self.rule.scores if name in scorers}
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

    def _look_ahead(self, name: str, left: Sequence[_Candidate]) -> None:
        """Score the first of some candidates, and with it as many others as passes hold side by side; none where they
        hold one alone, whose prompts are then read a few at a time, as far as it takes."""
        probe, choice = self.probes[name], left[0].choice
        if (name, probe.same_for(choice)) in self._known or name in left[0].ahead:
            return
        names = self._together_with(name, choice)
        scorer = self._scorer(name, choice) if len(names) == 1 else self._scorer_of(names)
        if isinstance(scorer, Whole) or scorer.alike.side_by_side < 2:
            return
        some: dict[tuple[int, float | None], _Candidate] = {}
        for one in left:
            key = probe.same_for(one.choice)
            if (name, key) not in self._known and name not in one.ahead:
                some.setdefault(key, one)
            if len(some) == scorer.alike.side_by_side:
                break
        found = scorer.of_each([one.choice for one in some.values()])
        for one, scores in zip(some.values(), found, strict=True):
            one.ahead |= scores

    def _score(self, name: str, one: _Candidate, bounds: Sequence[Bound]) -> None:
        """Score a candidate, as far as it takes to know whether it stays within bounds, and note which one it fails."""
        key = (name, self.probes[name].same_for(one.choice))
        if key not in self._known:
            self._known[key] = self._found(name, one, bounds)
        known = self._known[key]
        one.found[name] = known.scores
        if known.broken_off is not None:
            one.broken_off[name] = known.broken_off
        if one.failed is None:
            one.failed = known.failed

    def _found(self, name: str, one: _Candidate, bounds: Sequence[Bound]) -> _Known:
        """A score of a candidate, as far as it takes to know whether it stays within bounds."""
        probe = self.probes[name]
        found: dict[int, Score] = {}
        total = len(probe.examples)
        for more in self._scores(name, one):
            found |= more
            # A sum that isn't finite stays so, which isn't for bounds to say.
            if not self.exhaustive and len(found) < total and math.isfinite(_known_sum(found)):
                reach = _reach(list(found.values()), total, probe.limits)
                failed = next((bound for bound in bounds if _is_lost(bound, reach)), None)
                if failed is not None:
                    return _Known(found, failed.name, reach[0] if failed.at_most is not None else reach[1])
        mean = mean_of(list(found.values()))
        if not math.isfinite(mean):
            return _Known(found, NAN)
        return _Known(found, next((bound.name for bound in bounds if not bound.holds(mean)), None))

    def _scores(self, name: str, one: _Candidate) -> Iterator[dict[int, Score]]:
        """A candidate's scores by place of the example, some at a time."""
        if name not in one.ahead:
            names = self._together_with(name, one.choice)
            if len(names) == 1:
                yield from self._scorer(name, one.choice).scores(one.choice)
                return
            one.ahead |= self._scorer_of(names).scores(one.choice)
        yield one.ahead.pop(name)

    def _together_with(self, name: str, choice: Choice) -> tuple[str, ...]:
        """The scores that come from the same passes, itself among them: alone where bounds may end it early."""
        return self._same_passes(name, choice) if self.exhaustive else (name,)

    def _scorer_of(self, names: tuple[str, ...]) -> Together:
        if names not in self._together:
            self._together[names] = Together(self.live, [self.probes[each] for each in names])
        return self._together[names]

    def _same_passes(self, name: str, choice: Choice) -> tuple[str, ...]:
        """The scores of next-token logits under the very interventions of one, itself among them. Whoever asks for
        every score of every candidate gets them from the same passes."""
        if name not in self._sharing:
            placed = {each: self.probes[each].placed(choice) for each in self.rule.scores}
            same = acts_as(placed[name])
            depends = self.probes[name].with_coefficient is not None
            self._sharing[name] = tuple(
                each
                for each, placements in placed.items()
                if each == name
                or (
                    is_quick(self.probes[each], placements)
                    and acts_as(placements) == same
                    and (self.probes[each].with_coefficient is not None) == depends
                )
            )
            if not is_quick(self.probes[name], placed[name]):
                self._sharing[name] = (name,)
        return self._sharing[name]

    def _scorer(self, name: str, choice: Choice) -> Scorer:
        if name not in self._scorers:
            probe = self.probes[name]
            quick = is_quick(probe, probe.placed(choice))
            self._scorers[name] = Quick(self._read(probe), probe) if quick else Whole(self.live, probe)
        return self._scorers[name]

    def _read(self, probe: Probe) -> AlikePrompts:
        if probe.data not in self._alike:
            self._alike[probe.data] = AlikePrompts(self.live, self.live.rendered(probe.examples))
        return self._alike[probe.data]

    def _read_alike(self) -> list[AlikePrompts]:
        return [*self._alike.values(), *(one.alike for one in self._together.values())]


@dataclass(frozen=True, eq=False)
class _Known:
    """A score of a candidate: by place of the example, the bound that it fails, and how far its mean could still be
    from that where it was not computed to the end."""

    scores: dict[int, Score]
    failed: str | None = None
    broken_off: float | None = None


@dataclass(eq=False)
class _Candidate:
    """A candidate while it is scored: its scores by name and place of the example; ``ahead`` holds those that came from
    another one's passes, until they are asked for."""

    choice: Choice
    found: dict[str, dict[int, Score]] = field(default_factory=dict)
    failed: str | None = None
    broken_off: dict[str, float] = field(default_factory=dict)
    ahead: dict[str, dict[int, Score]] = field(default_factory=dict)

    def scored(self) -> Scored:
        whole = {name: found for name, found in self.found.items() if name not in self.broken_off}
        by_example = {name: tuple(found[place].value for place in sorted(found)) for name, found in whole.items()}
        scores = {name: mean_of(list(found.values())) for name, found in whole.items()}
        return Scored(scores, by_example, self.failed, self.broken_off)


def _known_sum(found: Mapping[int, Score]) -> float:
    """Of the scores that there are so far, without those that don't count."""
    return sum_of(score.value for score in found.values() if score.weight)


def _reach(scores: Sequence[Score], total: int, limits: tuple[float, float]) -> tuple[float, float]:
    """The least and the greatest mean that there can still be.

    Raises:
        PluginError: for weights other than 1 where an evaluator says limits: what is left could count for more.
    """
    if limits == (-math.inf, math.inf):
        return limits
    if any(score.weight != 1 for score in scores):
        raise PluginError("An evaluator that says the limits of its scores gave one of another weight than 1.")
    known, left = sum_of(score.value for score in scores), total - len(scores)
    return (known + left * limits[0]) / total, (known + left * limits[1]) / total


def _is_lost(bound: Bound, reach: tuple[float, float]) -> bool:
    """Whether a bound fails wherever in its reach the mean comes to lie. Float noise of the sum is no reason."""
    least, greatest = reach
    over = bound.at_most is not None and least > bound.at_most + 1e-9
    return over or (bound.at_least is not None and greatest < bound.at_least - 1e-9)
