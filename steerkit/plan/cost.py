"""What a plan costs, pass by pass, as the engine makes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from steerkit.api.hookspecs import Needs
from steerkit.plan.tokens import TokenCounter
from steerkit.plan.types import Cost, PlannedCondition, PlannedDirection, PlannedEvaluation, PlannedSamples
from steerkit.recipe.data import DataRef, Splits
from steerkit.sharing import Pass, completing, greedy_tokens, group_sizes, next_tokens, passes_over, sample_passes

PREPASS: Final = "prepasses of gates"
"""The part of the cost that gates add which are decided in advance."""


def held_out(ref: DataRef, data: Mapping[str, Splits]) -> DataRef | None:
    """The split of the same data set on which a direction from ``ref`` is tested, or None."""
    for split in ("test", "validation"):
        if split != ref.split and data[ref.dataset].get(split):
            return DataRef(ref.dataset, split)
    return None


@dataclass
class Meter:
    """Adds up passes.

    Args:
        data: the plan's texts.
        counter: counts their tokens.
        budget: most tokens of a batch.
    """

    data: Mapping[str, Splits]
    counter: TokenCounter
    budget: int
    prompt_tokens: int = 0
    generated_tokens: int = 0
    parts: dict[str, int] = field(default_factory=dict)
    _lengths: dict[tuple[DataRef, bool], list[int]] = field(default_factory=dict)

    def lengths(self, ref: DataRef, *, raw: bool = False) -> list[int]:
        """Tokens of each text of a split."""
        key = (ref, raw)
        if key not in self._lengths:
            count = self.counter.texts if raw else self.counter.prompts
            self._lengths[key] = count(self.data[ref.dataset][ref.split])
        return self._lengths[key]

    def add(self, what: str, one: Pass, *, conditions: int = 1, prepass: bool = False) -> None:
        """A pass under conditions that are run together; with ``prepass`` an unsteered one before each of its prompts.

        Completions read the prompts in one call per batch, which gives the first token, then make a call per token.
        """
        calls = {what: one.calls_of(conditions, self.budget)}
        if prepass:
            calls[PREPASS] = one.batches_of(conditions, self.budget)
        for part, number in calls.items():
            self.parts[part] = self.parts.get(part, 0) + number
            self.prompt_tokens += conditions * sum(one.lengths)
        self.generated_tokens += conditions * len(one.lengths) * one.new_tokens

    def cost(self) -> Cost:
        """The sum."""
        parts = tuple(self.parts.items())
        total = sum(passes for _, passes in parts)
        counter = self.counter
        return Cost(total, self.prompt_tokens, self.generated_tokens, counter.estimated, counter.basis, parts)


def meter_directions(meter: Meter, directions: Iterable[PlannedDirection], separation: bool) -> None:
    """Captures for directions, and for their separation at every layer."""
    for direction in directions:
        if direction.positive is None or direction.negative is None:
            continue
        classes = (direction.positive, direction.negative)
        tested = [held_out(ref, meter.data) for ref in classes]
        for ref in classes:
            meter.add("directions", Pass(tuple(meter.lengths(ref))))
        if separation:
            unseen = [ref for ref in tested if ref is not None]
            for ref in (*classes, *(unseen if len(unseen) == len(classes) else classes)):
                meter.add("separation by layer", Pass(tuple(meter.lengths(ref))))


def meter_conditions(
    meter: Meter,
    conditions: Sequence[tuple[PlannedCondition, int]],
    evaluations: Sequence[PlannedEvaluation],
    samples: PlannedSamples | None,
    monitored: bool = False,
) -> None:
    """Passes of evaluators and samples under the baseline, every condition and its controls.

    Args:
        meter: takes them in.
        conditions: each with the number of its controls.
        evaluations: the evaluators.
        samples: completions to keep; controls have none.
        monitored: whether monitors read those.
    """
    needs = {
        ref: [item.needs for item in evaluations if ref in item.data]
        for ref in dict.fromkeys(ref for item in evaluations for ref in item.data)
    }
    for one in _baseline_passes(meter, needs, samples, monitored):
        meter.add("baseline", one)
    for prepass in (False, True):
        listed = [(one, controls) for one, controls in conditions if one.has_prepass == prepass]
        _meter_group("conditions", meter, _passes(meter, needs, samples, monitored), len(listed), prepass)
        controls = sum(number for _, number in listed)
        _meter_group("random controls", meter, _passes(meter, needs, None), controls, prepass)


def _meter_group(what: str, meter: Meter, passes: Sequence[Pass], conditions: int, prepass: bool) -> None:
    """Conditions that make the same passes, run in groups as the runner does."""
    for size in group_sizes(passes, conditions, meter.budget):
        for one in passes:
            meter.add(what, one, conditions=size, prepass=prepass)


def _passes(
    meter: Meter, needs: Mapping[DataRef, Sequence[Needs]], samples: PlannedSamples | None, monitored: bool = False
) -> list[Pass]:
    """The passes of a condition that isn't the baseline."""
    found: list[Pass] = []
    for ref, wanted in needs.items():
        found += passes_over(wanted, meter.lengths(ref), partial(meter.lengths, ref, raw=True))
    return found + _sample_passes(meter, needs, samples, monitored)


def _baseline_passes(
    meter: Meter, needs: Mapping[DataRef, Sequence[Needs]], samples: PlannedSamples | None, monitored: bool
) -> list[Pass]:
    """The same for the baseline: what evaluators compare with is made once, and it takes its own from there."""
    found: list[Pass] = []
    for ref, wanted in needs.items():
        prompts = meter.lengths(ref)
        longest = max(0 if need.samples else need.max_new_tokens for need in wanted)
        logits_kept = any(need.baseline and need.next_token_logits for need in wanted)
        completions_kept = longest > 0 and any(need.baseline or need.baseline_completions for need in wanted)
        found += [replace(next_tokens(prompts), most_rows=0)] if logits_kept else []
        found += [completing(prompts, longest)] if completions_kept else []
        kept = {"completions": completions_kept, "next token": logits_kept, "baseline along": True}
        for one in passes_over(wanted, prompts, partial(meter.lengths, ref, raw=True)):
            found += [] if kept.get(one.kind) else [one]
    return found + _sample_passes(meter, needs, samples, monitored)


def _sample_passes(
    meter: Meter, needs: Mapping[DataRef, Sequence[Needs]], samples: PlannedSamples | None, monitored: bool
) -> list[Pass]:
    if samples is None:
        return []
    written = max((greedy_tokens(need) for need in needs.get(samples.data, ())), default=0)
    prompts = meter.lengths(samples.data)[: samples.n]
    return sample_passes(prompts, samples.max_new_tokens, written, monitored=monitored)
