"""What scores candidates: next-token logits with what is common to candidates computed once, or any other score as that
of a condition like any other."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from torch import Tensor

from steerkit.api.direction import Direction
from steerkit.api.evaluator import Evaluator, Outputs, Score
from steerkit.api.hookspecs import Needs
from steerkit.api.intervention import Placement
from steerkit.engine.measuring.evaluate import Evaluation, Job, Steered
from steerkit.engine.measuring.references import reference_name
from steerkit.engine.runtime.runtime import Runtime
from steerkit.engine.searching.alike import AlikePrompts
from steerkit.errors import PluginError
from steerkit.intervals import total
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


def is_quick(probe: Probe, placements: Sequence[Placement]) -> bool:
    """Whether a score is one of next-token logits alone, under edits that act at every token alike."""
    needs = probe.needs
    alike = all(
        one.positions == Positions("all") and one.gate is None and one.schedule.is_constant for one in placements
    )
    return alike and needs in (Needs(next_token_logits=True), Needs(next_token_logits=True, baseline=True))


class Quick:
    """Scores of next-token logits, prompts at a time, with what is common to candidates computed once.

    Args:
        alike: the prompts, perhaps among others.
        probe: what scores them.
        first: place of the first of them.
    """

    def __init__(self, alike: AlikePrompts, probe: Probe, first: int = 0) -> None:
        self.alike, self.probe, self.first = alike, probe, first
        self.unsteered = alike.unsteered[first : first + len(probe.examples)]

    def scores(self, choice: Choice) -> Iterator[dict[int, Score]]:
        """Scores by place of the example, some of them at a time."""
        for order, logits in self.alike.logits(self.probe.placed(choice)):
            yield dict(zip(order, self._scored(order, logits.cpu()), strict=True))

    def of_each(self, choices: Sequence[Choice]) -> list[dict[str, dict[int, Score]]]:
        """All scores of each candidate by its own name, from passes whose rows they share."""
        found = self.alike.logits_of_each([self.probe.placed(choice) for choice in choices])
        return [{self.probe.name: self.of_all(logits.cpu())} for logits in found]

    def of_all(self, logits: Tensor) -> dict[int, Score]:
        """Scores from the logits of all prompts that its own are among, ``[n, vocab]``."""
        places = range(len(self.probe.examples))
        return dict(enumerate(self._scored(places, logits[self.first : self.first + len(places)])))

    def unsteered_mean(self) -> float:
        """The score without any intervention."""
        return mean_of(self._scored(range(len(self.probe.examples)), self.unsteered))

    def _scored(self, places: Sequence[int], logits: Tensor) -> list[Score]:
        examples = [self.probe.examples[place] for place in places]
        outputs = Outputs(_texts(examples), logits, examples=examples)
        if self.probe.needs.baseline:
            baseline = Outputs(_texts(examples), self.unsteered[list(places)], examples=examples)
            outputs = replace(outputs, baseline=baseline)
        return _single(self.probe, self.probe.evaluator.score(outputs))


class Together:
    """Scores that look at prompts under the same interventions, from the same passes: fewer and fuller ones.

    Args:
        live: the model.
        probes: the scores, of next-token logits all.
    """

    def __init__(self, live: Runtime, probes: Sequence[Probe]) -> None:
        examples = {probe.data: probe.examples for probe in probes}
        self.alike = AlikePrompts(live, live.rendered([one for rows in examples.values() for one in rows]))
        first = dict(zip(examples, accumulate(map(len, examples.values()), initial=0), strict=False))
        self.quick = {probe.name: Quick(self.alike, probe, first[probe.data]) for probe in probes}
        self.probe = probes[0]

    def scores(self, choice: Choice) -> dict[str, dict[int, Score]]:
        """Each score's values by place of the example."""
        logits = self.alike.all_logits(self.probe.placed(choice)).cpu()
        return {name: one.of_all(logits) for name, one in self.quick.items()}

    def of_each(self, choices: Sequence[Choice]) -> list[dict[str, dict[int, Score]]]:
        """``scores`` of each candidate, from passes whose rows they share."""
        found = self.alike.logits_of_each([self.probe.placed(choice) for choice in choices])
        return [{name: one.of_all(logits.cpu()) for name, one in self.quick.items()} for logits in found]


def acts_as(placements: Sequence[Placement]) -> Hashable:
    """What tells interventions from others that do something else. Equal where they are sure to do the same."""
    return tuple(
        (
            type(one.intervention),
            one.intervention.options.model_dump_json(),
            tuple(map(id, one.directions)),
            one.sites,
            one.positions,
            one.schedule,
            id(one.gate),
            id(one.factor),
        )
        for one in placements
    )


class Whole:
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
        return mean_of(self._under(())) if needs.activations and not needs.max_new_tokens else None

    def _under(self, placements: tuple[Placement, ...]) -> Sequence[Score]:
        found = self.evaluation.run(Steered(placements), samples=False)
        return found.scores[self.probe.name, self.probe.data]


Scorer = Quick | Whole


def _texts(examples: Sequence[Example]) -> list[str]:
    return [example.text for example in examples]


def _single(probe: Probe, scored: Sequence[object]) -> list[Score]:
    if not all(isinstance(score, Score) for score in scored):
        raise PluginError(f"Score {probe.name!r} of a search: its evaluator gives several values; a search takes one.")
    return [score for score in scored if isinstance(score, Score)]


def mean_of(scores: Sequence[Score]) -> float:
    """The mean weighted by weight; NaN where a score that counts is, none counts, or infinite ones have two signs."""
    weight = total(score.weight for score in scores)
    if weight == 0:
        return math.nan
    return total(score.value * score.weight for score in scores if score.weight) / weight
