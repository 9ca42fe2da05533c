"""What a plan costs, pass by pass, as the engine makes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from steerkit.plan.tokens import TokenCounter
from steerkit.plan.types import Cost, PlannedCondition, PlannedDirection, PlannedEvaluation, PlannedSamples
from steerkit.recipe.data import DataRef, Splits

_CHUNK: Final = 256
"""Prompts whose next-token logits the engine holds at once (``steerkit.engine.evaluate.CHUNK``)."""

PREPASS: Final = "prepasses of gates"
"""The part of the cost that gates add which are decided in advance."""


def count_batches(lengths: Iterable[int], budget: int, extra: int = 0) -> int:
    """Batches that rows of these lengths make: the longest first, padding and ``extra`` columns in the budget."""
    count, rows, width = 0, 0, 0
    for length in sorted(lengths, reverse=True):
        if count and (rows + 1) * (width + extra) <= budget:
            rows += 1
        else:
            count, rows, width = count + 1, 1, length
    return count


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

    def read(self, what: str, lengths: Sequence[int], *, prepass: bool = False) -> None:
        """A pass over prompts or texts; with ``prepass`` an unsteered one before it."""
        self._pass_over(what, lengths, 0, prepass)

    def write(self, what: str, lengths: Sequence[int], new_tokens: int, *, prepass: bool = False) -> None:
        """Completions: the prompts in one pass per batch, which gives the first token, then a pass per token."""
        batches = self._pass_over(what, lengths, new_tokens, prepass)
        self.parts[what] += batches * (new_tokens - 1)
        self.generated_tokens += len(lengths) * new_tokens

    def _pass_over(self, what: str, lengths: Sequence[int], extra: int, prepass: bool) -> int:
        batches = count_batches(lengths, self.budget, extra)
        for part in (what, PREPASS) if prepass else (what,):
            self.parts[part] = self.parts.get(part, 0) + batches
            self.prompt_tokens += sum(lengths)
        return batches

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
            meter.read("directions", meter.lengths(ref))
        if separation:
            unseen = [ref for ref in tested if ref is not None]
            for ref in (*classes, *(unseen if len(unseen) == len(classes) else classes)):
                meter.read("separation by layer", meter.lengths(ref))


def meter_conditions(
    meter: Meter,
    conditions: Sequence[tuple[PlannedCondition, int]],
    evaluations: Sequence[PlannedEvaluation],
    samples: PlannedSamples | None,
) -> None:
    """Passes of evaluators and samples under the baseline, every condition and its controls.

    Args:
        meter: takes them in.
        conditions: each with the number of its controls.
        evaluations: the evaluators.
        samples: completions to keep; controls have none.
    """
    condition = partial(_meter_condition, meter, evaluations)
    condition("baseline", samples, baseline=True)
    for planned, controls in conditions:
        condition("conditions", samples, prepass=planned.has_prepass)
        for _ in range(controls):
            condition("random controls", None, prepass=planned.has_prepass)


def _meter_condition(
    meter: Meter,
    evaluations: Sequence[PlannedEvaluation],
    what: str,
    samples: PlannedSamples | None,
    *,
    baseline: bool = False,
    prepass: bool = False,
) -> None:
    read, write = partial(meter.read, what, prepass=prepass), partial(meter.write, what, prepass=prepass)
    generated: set[DataRef] = set()
    for ref in dict.fromkeys(ref for item in evaluations for ref in item.data):
        needs = [item.needs for item in evaluations if ref in item.data]
        prompts = meter.lengths(ref)
        longest = max(need.max_new_tokens for need in needs)
        own = max((need.max_new_tokens for need in needs if not need.baseline_completions), default=0)
        # What evaluators compare with is made once, and the baseline condition takes its own from there.
        logits_kept = any(need.baseline and need.next_token_logits for need in needs)
        completions_kept = longest > 0 and any(need.baseline or need.baseline_completions for need in needs)
        if baseline and logits_kept:
            read(prompts)
        if baseline and completions_kept:
            write(prompts, longest)
        if own:
            generated.add(ref)
            if not (baseline and completions_kept):
                write(prompts, own)
        asked = any(need.next_token_logits and not need.sequence_logits for need in needs)
        if asked and not (baseline and logits_kept):
            for start in range(0, len(prompts), _CHUNK):
                read(prompts[start : start + _CHUNK])
        along = {(need.baseline_completions, need.max_text_tokens) for need in needs if need.sequence_logits}
        for completions, limit in sorted(along):
            lengths = [n + longest for n in prompts] if completions else meter.lengths(ref, raw=True)
            read([min(n, limit) for n in lengths] if limit else lengths)
    if samples is not None and samples.data not in generated:
        write(meter.lengths(samples.data)[: samples.n], samples.max_new_tokens)
