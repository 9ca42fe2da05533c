"""The looks that a run takes at texts, planned once: ``check`` counts their passes, and the runner carries them out.

A look is taken by a group, which is a condition with its own controls, or the baseline. Where a group has controls, a
pass beside them is made once for all evaluators that ask for controls and read it, and one of the condition by itself
for all that leave them out; completions are written once for both, beside controls where any evaluator asks for them
there. So the first evaluator that does has them computed again. A group without controls makes each pass once for all
evaluators that read it. Which looks a group takes never depends on which other conditions there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from steerkit.api.hookspecs import Needs
from steerkit.plan.planned.conditions import PlannedCondition
from steerkit.plan.planned.reporting import PlannedSamples
from steerkit.plan.tokens import Reading
from steerkit.plan.types import PlannedDirection, PlannedEvaluation, PlannedSeparation
from steerkit.recipe.data import DataRef, Splits
from steerkit.sharing import (
    BY_ITSELF,
    Pass,
    Sampling,
    along,
    compares_completions,
    completing,
    greedy_tokens,
    next_tokens,
    reading,
    reading_lengths,
    sampling,
    samplings,
    texts_wanted,
)

LookKind: TypeAlias = Literal["completions", "reference", "after_prompts", "along", "readings"]

Lengths: TypeAlias = Callable[[DataRef, Reading], Sequence[int]]
"""Tokens of each example of a split: as a ``prompt``, or as the ``text`` that is read along."""


@dataclass(frozen=True)
class Look:
    """One look at the texts of a split.

    Args:
        kind: ``completions`` writes them; ``reference`` keeps the baseline's next-token logits, which others are
            compared with; ``after_prompts`` scores next-token logits, completions, samples, activations and readings;
            ``along`` scores logits along texts; ``readings`` are those of monitors along what a reader is shown.
        data: the texts.
        first: how many of them, from the start, are shown to the reader; None for all, which evaluators score.
        new_tokens: of ``completions`` and ``readings``: how many; of ``along``: the length of the baseline's
            completions that are read, 0 for the data's own texts.
        most_tokens: of ``along``: tokens that are read of each text, 0 for all.
        evaluations: places of the evaluators, among the plan's, that score it.
        needs_pass: whether next-token logits are computed, or completions written; not where they are there already.
        controlled: whether the group's controls, where it has any, take it too.
        samplings: of ``after_prompts``: how completions are sampled.
        readings: of ``after_prompts``: the lengths of completions along which activations and readings are taken.
        compared: of ``along``: whether the baseline's logits are taken beside.
    """

    kind: LookKind
    data: DataRef
    first: int | None = None
    new_tokens: int = 0
    most_tokens: int = 0
    evaluations: tuple[int, ...] = ()
    needs_pass: bool = True
    controlled: bool = True
    samplings: tuple[Sampling, ...] = ()
    readings: tuple[int, ...] = ()
    compared: bool = False

    @property
    def shown(self) -> bool:
        """Whether it is for the reader, who is shown the condition without its controls."""
        return self.first is not None

    def passes(self, lengths: Lengths) -> list[Pass]:
        """The passes that it makes."""
        if self.kind == "along":
            texts = list(lengths(self.data, "text"))
            if self.new_tokens:
                texts = [n + self.new_tokens for n in lengths(self.data, "prompt")]
            run = along(texts, self.most_tokens)
            return [run, *([replace(run, kind="baseline along")] if self.compared else [])]
        prompts = list(lengths(self.data, "prompt"))[: self.first]
        if self.kind == "readings":
            return [reading(prompts, self.new_tokens)]
        if self.kind == "completions":
            return [completing(prompts, self.new_tokens)]
        runs = [sampling(prompts, wanted) for wanted in self.samplings]
        runs += [next_tokens(prompts)] if self.needs_pass else []
        return runs + [reading(prompts, length) for length in self.readings]


@dataclass(frozen=True)
class PlannedGroup:
    """A condition with its own controls, or the baseline, and the looks that it takes, in order.

    Args:
        condition: the condition; None for the baseline.
        controls: how many random controls stand beside it.
        looks: what it looks at.
    """

    condition: PlannedCondition | None
    controls: int
    looks: tuple[Look, ...]

    @property
    def system_prompt(self) -> str | None:
        """What takes the place of the model's system prompt in it, or None."""
        return None if self.condition is None else self.condition.system_prompt

    @property
    def apart(self) -> bool:
        """Whether its conditions share no batch, however few they are."""
        return self.condition is not None and self.condition.mode in BY_ITSELF

    def together(self, look: Look, run: Pass, budget: int) -> int:
        """How many of its conditions share a batch of a look's pass at most."""
        return 1 if self.apart else min(self.members(look), run.together(budget))

    def members(self, look: Look) -> int:
        """How many conditions take a look side by side."""
        return 1 + self.controls if look.controlled else 1

    def completions(self, data: DataRef) -> Look | None:
        """The look that writes completions on a split, or None."""
        return next((look for look in self.looks if look.kind == "completions" and look.data == data), None)

    def reference(self, data: DataRef) -> Look | None:
        """The look that keeps logits to compare with, or None. Only the baseline has any."""
        return next((look for look in self.looks if look.kind == "reference" and look.data == data), None)


def plan_groups(
    conditions: Sequence[PlannedCondition],
    random_directions: int,
    evaluations: Sequence[PlannedEvaluation],
    samples: PlannedSamples | None,
    *,
    monitored: bool = False,
) -> tuple[PlannedGroup, ...]:
    """The groups of a run, the baseline first. ``monitored``: whether there are monitors, which read the samples."""
    found = [PlannedGroup(None, 0, _looks(evaluations, samples, monitored, baseline=True))]
    looks = {
        controls: _looks(evaluations, samples, monitored, baseline=False, controls=controls)
        for controls in (False, True)
    }
    for item in conditions:
        controls = item.n_controls(random_directions)
        found.append(PlannedGroup(item, controls, looks[controls > 0]))
    return tuple(found)


def completion_length(evaluations: Sequence[PlannedEvaluation], data: DataRef) -> int:
    """Tokens of the completions on a split that evaluators score under every condition; 0 where none does."""
    return max((greedy_tokens(item.needs) for item in evaluations if data in item.data), default=0)


def _looks(
    evaluations: Sequence[PlannedEvaluation],
    samples: PlannedSamples | None,
    monitored: bool,
    *,
    baseline: bool,
    controls: bool = False,
) -> tuple[Look, ...]:
    """The looks of one group. ``controls``: whether it has any; without them who asks for them makes no difference."""
    found: list[Look] = []
    for data in dict.fromkeys(ref for item in evaluations for ref in item.data):
        here = {place: item.needs for place, item in enumerate(evaluations) if data in item.data}
        beside = {place for place in here if not controls or data not in evaluations[place].uncontrolled}
        longest = completion_length(evaluations, data)
        compared = baseline and any(compares_completions(needs) for needs in here.values())
        # The baseline's own are cut from what others are compared with, which is as long as anybody asks for.
        asked = (0 if needs.samples else needs.max_new_tokens for needs in here.values())
        written = max(asked) if compared else longest
        kept = baseline and any(needs.baseline and needs.next_token_logits for needs in here.values())
        found += [Look("reference", data)] if kept else []
        if written:
            controlled = any(greedy_tokens(here[place]) for place in beside)
            found.append(Look("completions", data, new_tokens=written, controlled=controlled))
        for controlled in (True, False):
            asking = {place: needs for place, needs in here.items() if (place in beside) is controlled}
            found += _after_prompts(data, asking, kept, controlled)
            found += _along(data, asking, baseline, controlled)
    if samples is not None:
        written = completion_length(evaluations, samples.data)
        length = written or samples.max_new_tokens
        shown = Look("completions", samples.data, samples.n, length, controlled=False)
        found += [] if written else [shown]
        found += [replace(shown, kind="readings")] if monitored else []
    return tuple(found)


def _after_prompts(data: DataRef, asking: Mapping[int, Needs], kept: bool, controlled: bool) -> list[Look]:
    """The look at what follows prompts; none where nobody asks for it. ``kept``: whether logits are there already."""
    needs = {place: one for place, one in asking.items() if not one.sequence_logits}
    if not needs:
        return []
    passes = not kept and any(one.next_token_logits for one in needs.values())
    sampled, read = tuple(samplings(needs.values())), tuple(reading_lengths(needs.values()))
    return [
        Look(
            "after_prompts",
            data,
            evaluations=tuple(needs),
            needs_pass=passes,
            controlled=controlled,
            samplings=sampled,
            readings=read,
        )
    ]


def _along(data: DataRef, needs: Mapping[int, Needs], baseline: bool, controlled: bool) -> list[Look]:
    """Looks along texts. Those beside the baseline's are looks of their own: they are steered row by row."""
    asked = {
        place: (*texts_wanted(one), one.baseline and not baseline)
        for place, one in needs.items()
        if one.sequence_logits
    }
    return [
        Look(
            "along",
            data,
            new_tokens=new_tokens,
            most_tokens=most,
            evaluations=tuple(place for place, wanted in asked.items() if wanted == (new_tokens, most, compared)),
            controlled=controlled,
            compared=compared,
        )
        for new_tokens, most, compared in dict.fromkeys(asked.values())
    ]


# Directions.

TESTED_ON: Final = ("test", "validation")


def held_out(ref: DataRef, data: Mapping[str, Splits]) -> DataRef | None:
    """The split of the same data set on which a direction from ``ref`` is tested, or None."""
    for part in TESTED_ON:
        other = ref.of_part(part)
        if part != ref.part and data[ref.dataset].get(other.split):
            return other
    return None


def plan_separations(
    directions: Sequence[PlannedDirection], data: Mapping[str, Splits]
) -> tuple[PlannedSeparation, ...]:
    """How the classes of every estimated direction are told apart: on prompts that weren't seen, if there are any."""
    found = []
    for item in directions:
        if item.positive is None or item.negative is None or (item.positions is not None and item.positions.each):
            continue  # of a direction that was chosen the search says how it does
        unseen = held_out(item.positive, data), held_out(item.negative, data)
        if unseen[0] is not None and unseen[1] is not None:
            found.append(PlannedSeparation(item, (unseen[0], unseen[1]), held_out=True))
        else:
            found.append(PlannedSeparation(item, (item.positive, item.negative), held_out=False))
    return tuple(found)
