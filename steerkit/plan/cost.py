"""What a plan costs, pass by pass, as the engine makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from steerkit.api.hookspecs import Needs
from steerkit.plan.tokens import Reading, TokenCounter
from steerkit.plan.turns import reads_behind
from steerkit.plan.types import Cost, PlannedCondition, PlannedDirection, PlannedEvaluation, PlannedSamples
from steerkit.recipe.data import DataRef, Splits
from steerkit.sharing import Pass, completing, greedy_tokens, group_sizes, next_tokens, passes_over, sample_passes

PREPASS: Final = "prepasses of gates"
"""The part of the cost that gates add which are decided in advance."""


def held_out(ref: DataRef, data: Mapping[str, Splits]) -> DataRef | None:
    """The split of the same data set on which a direction from ``ref`` is tested, or None."""
    for part in ("test", "validation"):
        other = ref.of_part(part)
        if part != ref.part and data[ref.dataset].get(other.split):
            return other
    return None


@dataclass
class Meter:
    """Adds up passes.

    Args:
        data: the plan's examples.
        counter: counts their tokens.
        budget: most tokens of a batch.
        prompted: counts them under a system prompt of a condition's own.
    """

    data: Mapping[str, Splits]
    counter: TokenCounter
    budget: int
    prompted: Callable[[str], TokenCounter] | None = None
    prompt_tokens: int = 0
    generated_tokens: int = 0
    parts: dict[str, int] = field(default_factory=dict)
    _lengths: dict[tuple[DataRef, Reading, str | None], list[int]] = field(default_factory=dict)

    def lengths(self, ref: DataRef, how: Reading = "prompt", system_prompt: str | None = None) -> list[int]:
        """Tokens of each example of a split, as a prompt with a condition's system prompt, or by itself."""
        key = (ref, how, system_prompt)
        if key not in self._lengths:
            counter = self.counter
            if system_prompt is not None and self.prompted is not None:
                counter = self.prompted(system_prompt)
            self._lengths[key] = counter.count(self.data[ref.dataset][ref.split], how)
        return self._lengths[key]

    def texts(self, ref: DataRef, system_prompt: str | None = None) -> list[int]:
        """Tokens of what is read along. A condition's system prompt stands before prompts that a completion follows."""
        plain = self.lengths(ref, "text")
        if system_prompt is None:
            return plain
        own, rows = self.lengths(ref, "text", system_prompt), self.data[ref.dataset][ref.split]
        return [plain[at] if one.completion is None else own[at] for at, one in enumerate(rows)]

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
        how: Reading = "whole" if direction.positions and reads_behind(direction.positions) else "prompt"
        tested = [held_out(ref, meter.data) for ref in classes]
        for ref in classes:
            meter.add("directions", Pass(tuple(meter.lengths(ref, how))))
        if separation:
            unseen = [ref for ref in tested if ref is not None]
            for ref in (*classes, *(unseen if len(unseen) == len(classes) else classes)):
                meter.add("separation by layer", Pass(tuple(meter.lengths(ref, how))))


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
    kinds = {(one.has_prepass, one.system_prompt, one.mode): one for one, _ in conditions}
    for kind, like in sorted(kinds.items(), key=lambda item: item[0][0]):
        listed = [(one, n) for one, n in conditions if (one.has_prepass, one.system_prompt, one.mode) == kind]
        own = _passes(meter, needs, samples, monitored, like.system_prompt)
        _meter_group("conditions", meter, own, len(listed), like)
        controls = sum(number for _, number in listed)
        of_controls = _passes(meter, needs, None, False, like.system_prompt)
        _meter_group("random controls", meter, of_controls, controls, like)


def _meter_group(what: str, meter: Meter, passes: Sequence[Pass], conditions: int, like: PlannedCondition) -> None:
    """Conditions that make the same passes as ``like``, run in groups as the runner does."""
    alone = like.mode in ("fold", "interpret")  # rows that differ are hooked, so these share no batch
    for size in [1] * conditions if alone else group_sizes(passes, conditions, meter.budget):
        for one in passes:
            meter.add(what, one, conditions=size, prepass=like.has_prepass)


def _passes(
    meter: Meter,
    needs: Mapping[DataRef, Sequence[Needs]],
    samples: PlannedSamples | None,
    monitored: bool,
    system_prompt: str | None,
) -> list[Pass]:
    """The passes of a condition that isn't the baseline."""
    found: list[Pass] = []
    for ref, wanted in needs.items():
        prompts = meter.lengths(ref, system_prompt=system_prompt)
        found += passes_over(wanted, prompts, partial(meter.texts, ref, system_prompt))
    return found + _sample_passes(meter, needs, samples, monitored, system_prompt)


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
        for one in passes_over(wanted, prompts, partial(meter.texts, ref)):
            found += [] if kept.get(one.kind) else [one]
    return found + _sample_passes(meter, needs, samples, monitored)


def _sample_passes(
    meter: Meter,
    needs: Mapping[DataRef, Sequence[Needs]],
    samples: PlannedSamples | None,
    monitored: bool,
    system_prompt: str | None = None,
) -> list[Pass]:
    if samples is None:
        return []
    written = max((greedy_tokens(need) for need in needs.get(samples.data, ())), default=0)
    prompts = meter.lengths(samples.data, system_prompt=system_prompt)[: samples.n]
    return sample_passes(prompts, samples.max_new_tokens, written, monitored=monitored)
