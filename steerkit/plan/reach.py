"""What conditions can't touch, as far as a plan knows: said before a run, since its numbers would be 0 unexplained."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from steerkit.api.hookspecs import Needs
from steerkit.errors import agreeing, counted
from steerkit.plan.planned.conditions import PlannedCondition, PlannedIntervention
from steerkit.plan.turns import BEHIND_PROMPT
from steerkit.plan.types import PlannedEvaluation
from steerkit.recipe.data import DataRef
from steerkit.sharing import greedy_tokens
from steerkit.templates import opened
from steerkit.types import Example


def unreached(
    conditions: Sequence[PlannedCondition],
    evaluations: Sequence[PlannedEvaluation],
    answered: Callable[[DataRef], bool],
) -> list[str]:
    """Sentences about conditions that do nothing, or edit nothing which an evaluator reads.

    Args:
        conditions: the conditions, without the baseline.
        evaluations: the evaluators.
        answered: whether any example of a split holds an answer that is read, given or yet to be written.
    """
    notes = [
        f"Condition {condition.name} does nothing with these options, so it is the baseline."
        for condition in conditions
        if condition.interventions and condition.system_prompt is None and all(map(_idle, condition.interventions))
    ]
    behind: dict[tuple[str, ...], list[str]] = {}
    late: dict[tuple[int, tuple[str, ...]], list[str]] = {}
    for condition in conditions:
        prompted = condition.system_prompt is not None or not condition.interventions
        if prompted or not all(map(_behind_only, condition.interventions)):
            continue
        name, first = condition.sweep or condition.name, min(map(_first_edited, condition.interventions))
        blind = [(item, _unanswered(item, answered)) for item in evaluations]
        told = tuple(_named_with(item, refs) for item, refs in blind if refs)
        if told:
            behind.setdefault(told, []).append(name)
        ends = tuple(item.name for item, refs in blind if not refs and _reached(item.needs) <= first)
        if ends:
            late.setdefault((first, ends), []).append(name)
    for blind_to, names in behind.items():
        each = list(dict.fromkeys(names))
        notes.append(
            f"{_who(each)} {agreeing(len(each), 'edits', 'edit')} generated tokens only, and {', '.join(blind_to)} "
            f"{agreeing(len(blind_to), 'reads', 'read')} what follows prompts or given texts, so "
            f"{agreeing(len(each), 'it', 'they')} can't differ from the baseline there."
        )
    for (first, ends), names in late.items():
        each = list(dict.fromkeys(names))
        notes.append(
            f"{_who(each)} {agreeing(len(each), 'edits', 'edit')} generated tokens from number {first + 1} on, which "
            f"shows in what follows them, and what {', '.join(ends)} {agreeing(len(ends), 'reads', 'read')} ends "
            f"there, so {agreeing(len(each), 'it', 'they')} can't differ from the baseline."
        )
    return notes


def unprompted(
    conditions: Sequence[PlannedCondition],
    evaluations: Sequence[PlannedEvaluation],
    answered: Callable[[DataRef], bool],
) -> list[str]:
    """Sentences about conditions whose system prompt alone can't touch texts that are read without any prompt."""
    names = [one.name for one in conditions if one.system_prompt is not None and not one.interventions]
    blind = [
        _named_with(item, refs)
        for item in evaluations
        if item.needs.sequence_logits and (refs := _unanswered(item, answered))
    ]
    if not names or not blind:
        return []
    return [
        f"{_who(names)} {agreeing(len(names), 'has', 'have')} a system prompt and no intervention, and "
        f"{', '.join(blind)} {agreeing(len(blind), 'reads', 'read')} given texts as they are, so "
        f"{agreeing(len(names), 'it', 'they')} can't differ from the baseline there."
    ]


def _who(names: Sequence[str]) -> str:
    return f"{agreeing(len(names), 'Condition', 'Conditions')} {', '.join(names)}"


def read_whole(evaluations: Sequence[PlannedEvaluation], examples: Callable[[DataRef], Sequence[Example]]) -> list[str]:
    """Sentences about conversations without an answer, which are read along as a whole."""
    notes = []
    for item in evaluations:
        if not item.needs.sequence_logits or item.needs.baseline_completions:
            continue
        for ref in item.data:
            rows = examples(ref)
            whole = [one for one in rows if is_read_whole(one)]
            if whole:
                notes.append(
                    f"{item.name} reads {len(whole)} of {counted(len(rows), 'conversation')} of {ref} as a whole, "
                    f"since {agreeing(len(whole), 'it ends', 'they end')} with no answer, which alone would be scored: "
                    "the chat template's own tokens count, and a condition's system prompt isn't there. These numbers "
                    "don't compare with those of answers."
                )
    return notes


def is_read_whole(example: Example) -> bool:
    """Whether evaluators read all of a conversation along, since it ends with no answer to something."""
    return not example.is_plain and opened(example).completion is None


def _idle(item: PlannedIntervention) -> bool:
    return item.spec.idle is not None and item.spec.idle(item.options)


def asked_outside(
    evaluations: Iterable[PlannedEvaluation], conditions: Sequence[PlannedCondition], random_directions: int
) -> list[str]:
    """Sentences about evaluators that ask something outside: how often, at most.

    Args:
        evaluations: the evaluators.
        conditions: the conditions, without the baseline.
        random_directions: how many controls stand beside a condition that has some.
    """
    controls = sum(one.n_controls(random_directions) for one in conditions)
    notes = []
    for item in evaluations:
        if item.needs.calls:
            asked = sum(1 + len(conditions) + (0 if ref in item.uncontrolled else controls) for ref in item.data)
            calls, tokens = item.needs.calls, item.needs.call_tokens
            more = f", and of about {counted(tokens, 'token')} with their answers ({tokens * asked} in all)"
            in_all = f"{calls * asked} in all{more if tokens else ''}"
            notes.append(
                f"{item.name} asks something outside: at most {counted(calls, 'question')} for a data set "
                f"under a condition, {in_all}. Answers are kept and not asked for again."
            )
    return notes


def without_keys(evaluations: Iterable[PlannedEvaluation], environment: Mapping[str, str]) -> list[str]:
    """Sentences about keys that aren't set where somebody looks.

    They are no notes of a plan, which is the same wherever it is made: a key may be set later, and what is asked on
    this machine may need none.

    Args:
        evaluations: the evaluators.
        environment: variables by name.
    """
    unset: dict[str, list[str]] = {}
    for item in evaluations:
        if item.needs.key and not environment.get(item.needs.key, "").strip():
            unset.setdefault(item.needs.key, []).append(item.name)
    return [
        f"{key} is not set, so {', '.join(names)} {agreeing(len(names), 'asks', 'ask')} without a key: set it before "
        "the run, unless what is asked needs none."
        for key, names in unset.items()
    ]


def _behind_only(item: PlannedIntervention) -> bool:
    """Whether only tokens behind the prompt are edited."""
    by_prompt = item.gate is not None and item.gate.at == "prompt" and not item.gate.prepass
    return item.positions.role in BEHIND_PROMPT or by_prompt


def _first_edited(item: PlannedIntervention) -> int:
    """The place of the first token behind the prompt that may be edited, counted from 0."""
    positions = item.positions
    if positions.role not in BEHIND_PROMPT:
        return 0
    starts = positions.indices or ((positions.span[0] or 0,) if positions.span is not None else (0,))
    return 0 if min(starts) < 0 else min(starts)


def _unanswered(item: PlannedEvaluation, answered: Callable[[DataRef], bool]) -> tuple[DataRef, ...]:
    """The data on which an evaluator reads nothing behind prompts, nor answers that are given."""
    needs = item.needs
    if greedy_tokens(needs) or needs.samples or needs.baseline_completions:
        return ()
    return tuple(ref for ref in item.data if not (needs.sequence_logits and answered(ref)))


def _reached(needs: Needs) -> float:
    """How many first tokens behind a prompt an evaluator can see an edit of: an edit shows in what follows it."""
    if needs.activations or needs.monitors or not needs.max_new_tokens:
        return math.inf
    return needs.max_new_tokens - 1


def _named_with(item: PlannedEvaluation, refs: Sequence[DataRef]) -> str:
    """An evaluator, with the data that are meant where they aren't all of its."""
    return item.name if len(refs) == len(item.data) else f"{item.name} on {', '.join(map(str, refs))}"
