"""What conditions can't touch, as far as a plan knows: said before a run, since its numbers would be 0 unexplained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from steerkit.api.hookspecs import Needs
from steerkit.errors import counted
from steerkit.plan.planned.conditions import PlannedCondition, PlannedIntervention
from steerkit.plan.types import PlannedEvaluation
from steerkit.recipe.data import DataRef
from steerkit.sharing import greedy_tokens
from steerkit.types import Example


def unreached(conditions: Sequence[PlannedCondition], evaluations: Sequence[PlannedEvaluation]) -> list[str]:
    """Sentences about conditions that do nothing, or edit nothing which an evaluator reads."""
    notes = [
        f"Condition {condition.name} does nothing with these options, so it is the baseline."
        for condition in conditions
        if condition.interventions and condition.system_prompt is None and all(map(_idle, condition.interventions))
    ]
    members: dict[tuple[str, ...], list[str]] = {}
    for condition in conditions:
        prompted = condition.system_prompt is not None or not condition.interventions
        if prompted or not all(map(_generated_only, condition.interventions)):
            continue
        blind = tuple(item.name for item in evaluations if _reads_prompts_only(item.needs))
        if blind:
            name = condition.sweep or condition.name
            members.setdefault(blind, []).append(name)
    for blind, names in members.items():
        each = list(dict.fromkeys(names))
        many, reads = len(each) > 1, "read" if len(blind) > 1 else "reads"
        notes.append(
            f"Condition{'s' if many else ''} {', '.join(each)} edit{'' if many else 's'} generated tokens only, and "
            f"{', '.join(blind)} {reads} what follows prompts or given texts, so {'they' if many else 'it'} can't "
            "differ from the baseline there."
        )
    return notes


def unprompted(
    conditions: Sequence[PlannedCondition],
    evaluations: Sequence[PlannedEvaluation],
    examples: Callable[[DataRef], Sequence[Example]],
) -> list[str]:
    """Sentences about conditions whose system prompt alone can't touch texts that are read without any prompt."""
    names = [one.name for one in conditions if one.system_prompt is not None and not one.interventions]
    blind = [
        item.name
        for item in evaluations
        if item.needs.sequence_logits
        and not item.needs.baseline_completions
        and all(one.completion is None for ref in item.data for one in examples(ref))
    ]
    if not names or not blind:
        return []
    many, reads = len(names) > 1, "read" if len(blind) > 1 else "reads"
    return [
        f"Condition{'s' if many else ''} {', '.join(names)} {'have' if many else 'has'} a system prompt and no "
        f"intervention, and {', '.join(blind)} {reads} given texts as they are, so {'they' if many else 'it'} can't "
        "differ from the baseline there."
    ]


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
            asked = (1 + len(conditions) + (0 if ref in item.uncontrolled else controls) for ref in item.data)
            notes.append(
                f"{item.name} asks something outside: at most {counted(item.needs.calls, 'question')} for a data set "
                f"under a "
                f"condition, {item.needs.calls * sum(asked)} in all. Answers are kept and not asked for again."
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
        f"{key} is not set, so {', '.join(names)} ask{'' if len(names) > 1 else 's'} without a key: set it before the "
        "run, unless what is asked needs none."
        for key, names in unset.items()
    ]


def _generated_only(item: PlannedIntervention) -> bool:
    by_prompt = item.gate is not None and item.gate.at == "prompt" and not item.gate.prepass
    return item.positions.role == "generated" or by_prompt


def _reads_prompts_only(needs: Needs) -> bool:
    """Whether no token that an evaluator looks at is a generated one."""
    return not (greedy_tokens(needs) or needs.samples or needs.baseline_completions)
